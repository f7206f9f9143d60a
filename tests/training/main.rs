//! Training from end to end on tiny networks and scenes: resuming, reproducibility, numbers that are not finite,
//! averages, schedules, the files of a run, the data sets, and everything that the command line refuses; measuring; what a
//! GPU does to a run.

mod averages;
mod bad_input;
mod bench;
mod command_line;
mod common;
mod cuda;
mod data_sets;
mod embedded;
mod gpu;
mod jobs;
mod late_driver;
mod libraries;
mod not_finite;
mod perceptual;
mod resume;
mod run_files;
mod schedules;
mod state;
