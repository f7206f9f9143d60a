! Trains a few steps and super-resolves an array: use_fortran REPOSITORY FOLDER. Arrays are columns × rows × bands ×
! images here, since Fortran's first index is the innermost.
module hooks
  use, intrinsic :: iso_c_binding
  use srgan
  implicit none
  integer :: steps_seen = 0
contains
  function on_step(step, user) bind(c) result(stops)
    type(srgan_step), intent(in) :: step
    type(c_ptr), value :: user
    integer(c_int) :: stops
    steps_seen = steps_seen + 1
    stops = 0
    if (.not. step%committed .or. c_associated(user)) stops = 1
  end function on_step
end module hooks

program use_srgan
  use, intrinsic :: iso_c_binding
  use, intrinsic :: iso_fortran_env, only: error_unit
  use srgan
  use hooks
  implicit none
  integer, parameter :: side = 12, texts = 5, longest = 512
  character(kind=c_char, len=longest) :: repository, folder
  character(kind=c_char, len=longest), target :: config, run_dir, overrides(texts)
  type(c_ptr), target :: pointers(texts)
  type(c_ptr) :: generator
  type(srgan_train_options) :: options
  type(srgan_run) :: run
  real(c_float), allocatable :: lr(:, :, :, :), sr(:, :, :, :)
  integer(c_size_t) :: bands, scale
  integer :: i

  call get_command_argument(1, repository)
  call get_command_argument(2, folder)
  config = trim(repository) // '/configs/demo.yaml' // c_null_char
  run_dir = trim(folder) // '/run' // c_null_char
  overrides(1) = 'Training.device=cpu' // c_null_char
  overrides(2) = 'Training.max_steps=2' // c_null_char
  overrides(3) = 'Generator.n_channels=8' // c_null_char
  overrides(4) = 'Data.patches_per_epoch=16' // c_null_char
  overrides(5) = 'Data.scenes=[' // trim(repository) // '/data/sentinel2_10m_b2_b3_b4_b8.npy]' // c_null_char
  do i = 1, texts
    pointers(i) = c_loc(overrides(i))
  end do
  options%config = c_loc(config)
  options%run_dir = c_loc(run_dir)
  options%overrides = c_loc(pointers)
  options%override_count = texts
  options%on_step = c_funloc(on_step)
  call check(srgan_train(options, run), 'train')
  if (run%steps /= 2 .or. run%stopped .or. steps_seen /= 2) error stop 'the run is not of two steps'

  call check(srgan_generator_open(run_dir, c_null_ptr, c_loc(pointers), 1_c_size_t, SRGAN_LIVE, generator), 'open')
  bands = srgan_generator_bands(generator)
  scale = srgan_generator_scale(generator)
  if (bands /= 4 .or. scale /= 4) error stop 'not four bands by four'
  allocate (lr(side, side, bands, 1), sr(side * scale, side * scale, bands, 1))
  lr = 1500
  call check(srgan_generator_run(generator, lr, srgan_shape(1_c_size_t, bands, int(side, c_size_t), &
    int(side, c_size_t)), SRGAN_RAW, sr, size(sr, kind=c_size_t)), 'run')
  if (any(sr < 0) .or. any(sr > 10000)) error stop 'pixels outside of the normalisation'
  if (srgan_generator_run(generator, lr, srgan_shape(1_c_size_t, bands, int(side, c_size_t), &
    int(side, c_size_t)), SRGAN_RAW, sr, 1_c_size_t) == SRGAN_STATUS_OK) error stop 'too little memory was accepted'
  call srgan_generator_close(generator)
  ! Fortran keeps a main program's arrays to the end, where a leak checker may take them for lost.
  deallocate (lr, sr)

contains

  subroutine check(status, what)
    integer(c_int), intent(in) :: status
    character(len=*), intent(in) :: what
    character(kind=c_char), pointer :: text(:)
    integer :: length
    if (status == SRGAN_STATUS_OK) return
    call c_f_pointer(srgan_last_error(), text, [10000])
    length = 1
    do while (text(length) /= c_null_char)
      length = length + 1
    end do
    write (error_unit, *) what, ': ', text(1:length - 1)
    error stop 1
  end subroutine check
end program use_srgan
