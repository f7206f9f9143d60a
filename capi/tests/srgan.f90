! srgan.h for Fortran: what a program needs to run a generator and to train one.
module srgan
  use, intrinsic :: iso_c_binding
  implicit none

  integer(c_int), parameter :: SRGAN_STATUS_OK = 0
  integer(c_int32_t), parameter :: SRGAN_LIVE = 1, SRGAN_RAW = 2, SRGAN_OVERWRITE = 4

  type, bind(c) :: srgan_shape
    integer(c_size_t) :: images, bands, height, width
  end type srgan_shape

  type, bind(c) :: srgan_step
    integer(c_int64_t) :: step
    logical(c_bool) :: adversarial, committed
    type(c_ptr) :: metrics
    integer(c_size_t) :: metric_count
  end type srgan_step

  type, bind(c) :: srgan_train_options
    type(c_ptr) :: config = c_null_ptr, overrides = c_null_ptr
    integer(c_size_t) :: override_count = 0
    type(c_ptr) :: run_dir = c_null_ptr, resume = c_null_ptr
    type(c_funptr) :: on_step = c_null_funptr
    type(c_ptr) :: user = c_null_ptr
  end type srgan_train_options

  type, bind(c) :: srgan_run
    integer(c_int64_t) :: steps
    logical(c_bool) :: stopped
    type(c_ptr) :: folder
  end type srgan_run

  interface
    function srgan_last_error() bind(c) result(text)
      import :: c_ptr
      type(c_ptr) :: text
    end function srgan_last_error

    function srgan_generator_open(checkpoint, config, overrides, override_count, flags, generator) &
        bind(c) result(status)
      import :: c_char, c_int, c_int32_t, c_ptr, c_size_t
      character(kind=c_char), intent(in) :: checkpoint(*)
      type(c_ptr), value :: config, overrides
      integer(c_size_t), value :: override_count
      integer(c_int32_t), value :: flags
      type(c_ptr), intent(out) :: generator
      integer(c_int) :: status
    end function srgan_generator_open

    subroutine srgan_generator_close(generator) bind(c)
      import :: c_ptr
      type(c_ptr), value :: generator
    end subroutine srgan_generator_close

    function srgan_generator_bands(generator) bind(c) result(bands)
      import :: c_ptr, c_size_t
      type(c_ptr), value :: generator
      integer(c_size_t) :: bands
    end function srgan_generator_bands

    function srgan_generator_scale(generator) bind(c) result(factor)
      import :: c_ptr, c_size_t
      type(c_ptr), value :: generator
      integer(c_size_t) :: factor
    end function srgan_generator_scale

    function srgan_generator_run(generator, lr, lr_shape, flags, sr, sr_length) bind(c) result(status)
      import :: c_float, c_int, c_int32_t, c_ptr, c_size_t, srgan_shape
      type(c_ptr), value :: generator
      real(c_float), intent(in) :: lr(*)
      type(srgan_shape), value :: lr_shape
      integer(c_int32_t), value :: flags
      real(c_float), intent(out) :: sr(*)
      integer(c_size_t), value :: sr_length
      integer(c_int) :: status
    end function srgan_generator_run

    function srgan_train(options, run) bind(c) result(status)
      import :: c_int, srgan_run, srgan_train_options
      type(srgan_train_options), intent(in) :: options
      type(srgan_run), intent(out) :: run
      integer(c_int) :: status
    end function srgan_train
  end interface
end module srgan
