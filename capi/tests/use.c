/* Uses the whole interface of srgan.h, and misuses it: use REPOSITORY FOLDER. */

#define _DEFAULT_SOURCE

#include <math.h>
#include <pthread.h>
#include <srgan.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK(condition)                                                                               \
  do {                                                                                                 \
    if (!(condition)) {                                                                                \
      fprintf(stderr, "%s:%d: %s\n  last error: %s\n", __FILE__, __LINE__, #condition, last_error());  \
      exit(1);                                                                                         \
    }                                                                                                  \
  } while (0)

static const char *last_error(void) {
  const char *text = srgan_last_error();
  return text ? text : "none";
}

static int says(const char *words) { return strstr(last_error(), words) != NULL; }

/* What the callback of a run has seen. */
struct seen {
  uint64_t steps;
  uint64_t stop_after;
  double content_loss;
  int adversarial;
};

static int on_step(const srgan_step *step, void *user) {
  struct seen *seen = user;
  CHECK(step->committed);
  seen->steps = step->step + 1;
  seen->adversarial = step->adversarial;
  for (size_t i = 0; i < step->metric_count; i++)
    if (strcmp(step->metrics[i].name, "generator/content_loss") == 0) seen->content_loss = step->metrics[i].value;
  return seen->stop_after != 0 && seen->steps >= seen->stop_after;
}

static void on_message(const char *line, void *user) {
  CHECK(strchr(line, '\n') == NULL);
  ++*(int *)user;
}

static const char *OVERRIDES[] = {"Training.device=cpu",       "Training.num_threads=2",     "Training.max_steps=6",
                                  "Training.g_pretrain_steps=4", "Training.adv_loss_ramp_steps=0", "Generator.n_channels=8",
                                  "Data.patches_per_epoch=64", "Training.val_check_interval=3"};

static char *joined(const char *folder, const char *name) {
  char *path = malloc(strlen(folder) + strlen(name) + 2);
  CHECK(path != NULL);
  sprintf(path, "%s/%s", folder, name);
  return path;
}

static void train(const char *run_dir) {
  int lines = 0;
  CHECK(srgan_set_messages(on_message, &lines) == SRGAN_STATUS_OK);
  struct seen seen = {.stop_after = 2};
  srgan_train_options options = {.config = "configs/demo.yaml",
                                 .overrides = OVERRIDES,
                                 .override_count = sizeof OVERRIDES / sizeof *OVERRIDES,
                                 .run_dir = run_dir,
                                 .on_step = on_step,
                                 .user = &seen};
  srgan_run run;
  CHECK(srgan_train(&options, &run) == SRGAN_STATUS_OK);
  CHECK(run.stopped && run.steps >= 2 && run.steps <= 3 && strcmp(run.folder, run_dir) == 0);
  CHECK(lines > 0 && seen.content_loss > 0);

  /* It goes on where it was. */
  seen.stop_after = 0;
  options.resume = run_dir;
  CHECK(srgan_train(&options, &run) == SRGAN_STATUS_OK);
  CHECK(!run.stopped && run.steps == 6 && seen.steps == 6 && seen.adversarial);
  CHECK(srgan_set_messages(NULL, NULL) == SRGAN_STATUS_OK);

  const char *wrong[] = {"Training.sed=1"};
  options = (srgan_train_options){.config = "configs/demo.yaml", .overrides = wrong, .override_count = 1};
  CHECK(srgan_train(&options, NULL) == SRGAN_STATUS_CONFIG && says("Training.sed"));
  CHECK(srgan_train(NULL, NULL) == SRGAN_STATUS_ARGUMENT && says("null"));
  options.config = NULL;
  CHECK(srgan_train(&options, &run) == SRGAN_STATUS_ARGUMENT && says("config"));
}

static void refuse_what_cannot_be_opened(void) {
  srgan_generator *generator = (srgan_generator *)1;
  CHECK(srgan_generator_open(NULL, NULL, NULL, 0, 0, &generator) == SRGAN_STATUS_ARGUMENT);
  CHECK(generator == NULL && says("checkpoint is a null pointer"));
  CHECK(srgan_generator_open("no.safetensors", NULL, NULL, 0, 0, NULL) == SRGAN_STATUS_ARGUMENT);
  CHECK(srgan_generator_open("no.safetensors", NULL, NULL, 0, 0, &generator) != SRGAN_STATUS_OK && says("no.safetensors"));
  CHECK(srgan_generator_open("configs/demo.yaml", NULL, NULL, 0, 0, &generator) != SRGAN_STATUS_OK);
  CHECK(srgan_generator_open("no.safetensors", NULL, NULL, 3, 0, &generator) == SRGAN_STATUS_ARGUMENT);
  CHECK(srgan_generator_open("no.safetensors", NULL, NULL, 0, 1u << 31, &generator) == SRGAN_STATUS_ARGUMENT && says("flags"));
  CHECK(srgan_generator_bands(NULL) == 0 && srgan_generator_scale(NULL) == 0);
  CHECK(srgan_generator_band_name(NULL, 0) == NULL && says("generator is a null pointer"));
  srgan_generator_close(NULL);
}

enum { BANDS = 4, SIDE = 12, SCALE = 4, IMAGE = BANDS * SIDE * SIDE, SR_IMAGE = IMAGE * SCALE * SCALE };

static void run_in_memory(srgan_generator *generator) {
  const srgan_shape two = {2, BANDS, SIDE, SIDE}, one = {1, BANDS, SIDE, SIDE};
  float *lr = malloc(2 * IMAGE * sizeof *lr), *sr = malloc(2 * SR_IMAGE * sizeof *sr), *again = malloc(SR_IMAGE * sizeof *again);
  CHECK(lr && sr && again);
  for (int i = 0; i < 2 * IMAGE; i++) lr[i] = 0.2f + 0.1f * sinf(0.3f * (float)i);
  CHECK(srgan_generator_run(generator, lr, two, 0, sr, 2 * SR_IMAGE) == SRGAN_STATUS_OK);
  CHECK(srgan_generator_run(generator, lr + IMAGE, one, 0, again, SR_IMAGE) == SRGAN_STATUS_OK);
  CHECK(memcmp(sr + SR_IMAGE, again, SR_IMAGE * sizeof *again) == 0); /* images do not depend on each other */

  /* The values of files are 10000 times the network's. */
  for (int i = 0; i < IMAGE; i++) lr[i] *= 10000;
  CHECK(srgan_generator_run(generator, lr, one, SRGAN_RAW, again, SR_IMAGE) == SRGAN_STATUS_OK);
  for (int i = 0; i < SR_IMAGE; i++) {
    float limited = fminf(fmaxf(sr[i], 0), 1);
    CHECK(fabsf(again[i] - 10000 * limited) <= 0.05f);
  }

  CHECK(srgan_generator_run(NULL, lr, one, 0, sr, SR_IMAGE) == SRGAN_STATUS_ARGUMENT);
  CHECK(srgan_generator_run(generator, NULL, one, 0, sr, SR_IMAGE) == SRGAN_STATUS_ARGUMENT && says("lr is a null pointer"));
  CHECK(srgan_generator_run(generator, lr, one, 0, NULL, SR_IMAGE) == SRGAN_STATUS_ARGUMENT && says("sr is a null pointer"));
  CHECK(srgan_generator_run(generator, lr, one, 0, sr, IMAGE) == SRGAN_STATUS_ARGUMENT && says("sr is"));
  CHECK(srgan_generator_run(generator, lr, one, SRGAN_LIVE, sr, SR_IMAGE) == SRGAN_STATUS_ARGUMENT && says("flags"));
  CHECK(srgan_generator_run(generator, sr, one, 0, sr + 1, SR_IMAGE) == SRGAN_STATUS_ARGUMENT && says("overlap"));
  const srgan_shape three_bands = {1, 3, SIDE, SIDE}, huge = {(size_t)-1, BANDS, SIDE, SIDE}, empty = {1, BANDS, 0, SIDE};
  CHECK(srgan_generator_run(generator, lr, three_bands, 0, sr, SR_IMAGE) == SRGAN_STATUS_ARGUMENT && says("3 bands"));
  CHECK(srgan_generator_run(generator, lr, huge, 0, sr, SR_IMAGE) == SRGAN_STATUS_ARGUMENT);
  CHECK(srgan_generator_run(generator, lr, empty, 0, sr, 0) == SRGAN_STATUS_ARGUMENT);
  lr[7] = NAN;
  CHECK(srgan_generator_run(generator, lr, one, 0, sr, SR_IMAGE) == SRGAN_STATUS_ARGUMENT && says("column 7 is NaN"));
  free(lr);
  free(sr);
  free(again);
}

/* Errors belong to threads. */
static void *other_thread(void *generator) {
  CHECK(srgan_last_error() == NULL);
  float lr[IMAGE] = {0}, *sr = malloc(SR_IMAGE * sizeof *sr);
  CHECK(sr != NULL);
  const srgan_shape one = {1, BANDS, SIDE, SIDE};
  for (int i = 0; i < 4; i++) CHECK(srgan_generator_run(generator, lr, one, 0, sr, SR_IMAGE) == SRGAN_STATUS_OK);
  CHECK(srgan_generator_run(generator, lr, one, 0, sr, 1) == SRGAN_STATUS_ARGUMENT && says("sr is 1 numbers"));
  free(sr);
  return NULL;
}

static void use(const char *run_dir, const char *folder) {
  srgan_generator *generator = NULL;
  const char *overrides[] = {"Training.num_threads=2", "Training.device=cpu"};
  CHECK(srgan_generator_open(run_dir, NULL, overrides, 2, 0, &generator) == SRGAN_STATUS_OK);
  CHECK(srgan_generator_bands(generator) == BANDS && srgan_generator_scale(generator) == SCALE);
  CHECK(srgan_generator_step(generator) == 6);
  CHECK(strcmp(srgan_generator_band_name(generator, 3), "3") == 0 && srgan_generator_band_name(generator, 4) == NULL);
  CHECK(strcmp(srgan_generator_normalisation(generator), "normalise_10k") == 0);
  CHECK(strstr(srgan_generator_description(generator), "averaged weights of step 6") != NULL);
  run_in_memory(generator);

  pthread_t threads[2];
  for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, other_thread, generator) == 0);
  for (int i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0);

  char *map = joined(folder, "map.npy");
  const char *scene = "data/sentinel2_10m_b2_b3_b4_b8.npy";
  CHECK(srgan_generator_predict(generator, scene, map, 0) == SRGAN_STATUS_OK);
  CHECK(srgan_generator_predict(generator, scene, map, 0) == SRGAN_STATUS_DATA && says("this file exists"));
  CHECK(srgan_generator_predict(generator, scene, map, SRGAN_OVERWRITE) == SRGAN_STATUS_OK);
  CHECK(srgan_generator_predict(generator, scene, map, SRGAN_OVERWRITE | SRGAN_RESUME) == SRGAN_STATUS_ARGUMENT);
  CHECK(srgan_generator_predict(generator, NULL, map, 0) == SRGAN_STATUS_ARGUMENT);
  FILE *file = fopen(map, "rb");
  CHECK(file != NULL && fclose(file) == 0);
  free(map);
  srgan_generator_close(generator);
}

int main(int argc, char **argv) {
  CHECK(argc == 3);
  CHECK(chdir(argv[1]) == 0);
  CHECK(srgan_abi_version() == SRGAN_ABI_VERSION && srgan_version()[0] != '\0');
  CHECK(srgan_last_error() == NULL);
  refuse_what_cannot_be_opened();
  char *run_dir = joined(argv[2], "run");
  train(run_dir);
  use(run_dir, argv[2]);
  free(run_dir);
  return 0;
}
