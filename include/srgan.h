/* srgan: super-resolution GANs for satellite imagery, called from C.
 *
 * Written by cbindgen from capi/src; docs/c.md explains it with examples. */

#ifndef SRGAN_H
#define SRGAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * Number of the binary interface: that of the library's SONAME. A program may compare it with srgan_abi_version().
 */
#define SRGAN_ABI_VERSION 0

/**
 * srgan_generator_open: the live weights, although the checkpoint has averaged ones.
 */
#define SRGAN_LIVE 1

/**
 * srgan_generator_run: pixels are those of the files of the training, in and out, instead of normalised ones.
 */
#define SRGAN_RAW 2

/**
 * srgan_generator_predict: replace a map that is there.
 */
#define SRGAN_OVERWRITE 4

/**
 * srgan_generator_predict: go on with an unfinished map; leave a finished one alone.
 */
#define SRGAN_RESUME 8

/**
 * srgan_generator_predict: accept values that the network was not trained for.
 */
#define SRGAN_FORCE 16

/**
 * How a call ended. Of anything but OK, srgan_last_error() has the text.
 */
typedef enum srgan_status {
  /**
   * Done.
   */
  SRGAN_STATUS_OK = 0,
  /**
   * An argument is wrong: a null pointer, an extent, an option.
   */
  SRGAN_STATUS_ARGUMENT = 1,
  /**
   * A configuration is wrong.
   */
  SRGAN_STATUS_CONFIG = 2,
  /**
   * A scene or another input file is wrong.
   */
  SRGAN_STATUS_DATA = 3,
  /**
   * A checkpoint cannot be read, or is none.
   */
  SRGAN_STATUS_CHECKPOINT = 4,
  /**
   * A file could not be read or written.
   */
  SRGAN_STATUS_IO = 5,
  /**
   * There is not enough memory, of the machine or of the GPU.
   */
  SRGAN_STATUS_MEMORY = 6,
  /**
   * A device cannot be used, or failed.
   */
  SRGAN_STATUS_DEVICE = 7,
  /**
   * Training no longer gives finite numbers.
   */
  SRGAN_STATUS_DIVERGED = 8,
  /**
   * The callback stopped the run before there was anything to save.
   */
  SRGAN_STATUS_STOPPED = 9,
  /**
   * A fault of the library.
   */
  SRGAN_STATUS_INTERNAL = 10,
} srgan_status;

/**
 * A trained generator on a device. It may be used from several threads; calls are done one after the other.
 */
typedef struct srgan_generator srgan_generator;

/**
 * Extent of images: an array images × bands × rows × columns without gaps, columns innermost.
 */
typedef struct srgan_shape {
  /**
   * Images.
   */
  size_t images;
  /**
   * Bands of each.
   */
  size_t bands;
  /**
   * Rows.
   */
  size_t height;
  /**
   * Columns.
   */
  size_t width;
} srgan_shape;

/**
 * Takes a line of text without its end; called from threads of the library too, one call after the other.
 */
typedef void (*srgan_on_message)(const char *line, void *user);

/**
 * A number that a step measured.
 */
typedef struct srgan_metric {
  /**
   * Its name, as in metrics.csv: "generator/content_loss". The text lives as long as the program.
   */
  const char *name;
  /**
   * Its value.
   */
  double value;
} srgan_metric;

/**
 * What a step did.
 */
typedef struct srgan_step {
  /**
   * Its number, from 0.
   */
  uint64_t step;
  /**
   * False while the generator is trained alone.
   */
  bool adversarial;
  /**
   * False if a loss or a gradient was not finite: nothing has changed then.
   */
  bool committed;
  /**
   * What it measured; valid during the call.
   */
  const struct srgan_metric *metrics;
  /**
   * Number of `metrics`.
   */
  size_t metric_count;
} srgan_step;

/**
 * Called after each step from the thread that trains; anything but 0 stops the run with its state saved, after the step
 * that may be under way already. `user` is that of the options.
 */
typedef int (*srgan_on_step)(const struct srgan_step *step, void *user);

/**
 * How a run is trained. Set what is not named to zero.
 */
typedef struct srgan_train_options {
  /**
   * The YAML file.
   */
  const char *config;
  /**
   * Values that override the file's: "Training.seed=1".
   */
  const char *const *overrides;
  /**
   * Number of `overrides`.
   */
  size_t override_count;
  /**
   * The run's folder; null is a new one.
   */
  const char *run_dir;
  /**
   * A run to continue: "auto", its folder or a checkpoint; null begins one.
   */
  const char *resume;
  /**
   * Called after each step; may be null.
   */
  srgan_on_step on_step;
  /**
   * Handed to `on_step`.
   */
  void *user;
} srgan_train_options;

/**
 * A run that has come to its end, or was stopped with its state saved.
 */
typedef struct srgan_run {
  /**
   * Steps that were done, those before it was continued included.
   */
  uint64_t steps;
  /**
   * Whether `on_step` stopped it; it goes on with its folder as `resume`.
   */
  bool stopped;
  /**
   * Its folder; valid until the next srgan_train() on this thread.
   */
  const char *folder;
} srgan_run;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Version of the library: "0.1.0". Never null; the text lives as long as the program.
 */
const char *srgan_version(void);

/**
 * The library's SRGAN_ABI_VERSION.
 */
uint32_t srgan_abi_version(void);

/**
 * Text of this thread's last error, with what is wrong, where, and what to do; null before the first. It is valid until
 * the next call that fails on this thread.
 */
const char *srgan_last_error(void);

/**
 * Opens a checkpoint: a .safetensors file of this program, the folder of a run (its last checkpoint), or, with its YAML as
 * `config`, a .ckpt of opensr-srgan; `config` is null otherwise. `overrides` are `override_count` texts such as
 * "Training.device=cpu" or "Training.num_threads=2" that say where to run; null if there are none. `flags`: SRGAN_LIVE.
 * The generator is put to `*generator`, for srgan_generator_close(); after an error that is null.
 */
enum srgan_status srgan_generator_open(const char *checkpoint,
                                       const char *config,
                                       const char *const *overrides,
                                       size_t override_count,
                                       uint32_t flags,
                                       struct srgan_generator **generator);

/**
 * Closes a generator; null is nothing to close.
 */
void srgan_generator_close(struct srgan_generator *generator);

/**
 * Bands of an image; 0 if `generator` is null.
 */
size_t srgan_generator_bands(const struct srgan_generator *generator);

/**
 * Name or number of band `band`, from 0, in the files of the training; null if there is no such band. The text lives as
 * long as the generator.
 */
const char *srgan_generator_band_name(const struct srgan_generator *generator,
                                      size_t band);

/**
 * Pixels of the output per pixel of the input along a side; 0 if `generator` is null.
 */
size_t srgan_generator_scale(const struct srgan_generator *generator);

/**
 * Steps of training; 0 if the file does not say, or `generator` is null.
 */
uint64_t srgan_generator_step(const struct srgan_generator *generator);

/**
 * Name of the normalisation, as "normalise_10k"; null if `generator` is. The text lives as long as the generator.
 */
const char *srgan_generator_normalisation(const struct srgan_generator *generator);

/**
 * Which weights run where, for people; null if `generator` is. The text lives as long as the generator.
 */
const char *srgan_generator_description(const struct srgan_generator *generator);

/**
 * Super-resolves images in memory: `lr` is an array of `shape`, `sr` memory for `sr_length` floats, which must be
 * images × bands × (scale·height) × (scale·width). The two may not overlap. Pixels are normalised ones, as the network reads
 * and writes them; with SRGAN_RAW in `flags` those of the files of the training. An image's result does not depend on the
 * others. After an error `sr` holds anything.
 */
enum srgan_status srgan_generator_run(const struct srgan_generator *generator,
                                      const float *lr,
                                      struct srgan_shape shape,
                                      uint32_t flags,
                                      float *sr,
                                      size_t sr_length);

/**
 * Maps a scene (GeoTIFF, .npy and what else training reads) as `srgan predict` does: to the file `out` (.tif or .npy), or
 * into the folder `out` under the scene's name. `flags`: SRGAN_OVERWRITE, SRGAN_RESUME, SRGAN_FORCE.
 */
enum srgan_status srgan_generator_predict(const struct srgan_generator *generator,
                                          const char *scene,
                                          const char *out,
                                          uint32_t flags);

/**
 * Sends messages of calls from now on, those of training and of maps among them, to `on_message`. Null is how it starts:
 * training and maps write to standard error, and the rest is silent.
 */
enum srgan_status srgan_set_messages(srgan_on_message on_message,
                                     void *user);

/**
 * Names the program `srgan`, which is started to check a GPU before it is trusted. Without one (null) `auto` is the CPU,
 * and `cuda` goes without kernels that only Hopper has.
 */
enum srgan_status srgan_set_program(const char *path);

/**
 * Trains as `srgan train` does, to the end or until `on_step` stops the run. `run` may be null. Signal handlers stay as
 * they are: to stop on a signal, have `on_step` look at a variable that the program's handler sets.
 */
enum srgan_status srgan_train(const struct srgan_train_options *options,
                              struct srgan_run *run);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SRGAN_H */
