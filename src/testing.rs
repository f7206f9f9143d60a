//! What unit tests share: a writer whose text is looked at, and processes of their own for kills, signals and limits, which
//! concern a whole process.

use std::process::Command;

#[path = "../tests/support/shared.rs"]
mod shared;
pub(crate) use shared::Shared;

/// The environment variable that hands its task to a child process.
const TASK: &str = "SRGAN_TEST_TASK";

/// Runs the ignored test `test` (its full path) of this program in a new process with a task; returns the
/// exit code (`None` after a kill) and all that it printed.
pub(crate) fn run_child(test: &str, task: &str) -> (Option<i32>, String) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture"])
        .env(TASK, task)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("running 1 test"), "there is no test {test}: {text}");
    (output.status.code(), text)
}

/// The task of this process, if it is a child.
pub(crate) fn task() -> Option<String> {
    std::env::var(TASK).ok()
}

/// From now on this process meets an error where a file would become longer than `bytes`, as on a full disk.
pub(crate) fn limit_file_size(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: `limit` outlives the call, and SIG_IGN is a valid disposition; without it the process would be
    // ended by SIGXFSZ instead of seeing the error.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
    }
}
