//! A check as a process of its own: a kernel that hangs, or that ends the GPU's context or the process, ends the check
//! and nothing else.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Verdict;

/// What comes before the verdict in the child's line.
const MARK: &str = "srgan self-check: ";

/// What is kept of a child's output.
const MOST_BYTES: usize = 1 << 16;
/// How often a child is looked at.
const TICK: Duration = Duration::from_millis(20);
/// How long an ended child's output may take, and how long a killed child may take to end: one that waits for a driver
/// does not end at all.
const GRACE: Duration = Duration::from_secs(2);

/// Variables by which launchers tell a process its rank: the check is none of the job's processes.
const RANKS: [&str; 10] = [
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NTASKS",
    "SLURM_NODEID",
    "PMI_RANK",
    "PMIX_RANK",
    "OMPI_COMM_WORLD_RANK",
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
];

/// The line that tells a verdict.
pub(super) fn line(verdict: &Verdict) -> String {
    format!("{MARK}{}", serde_json::to_string(verdict).unwrap_or_default())
}

/// Runs a check, for `limit` at most.
pub(super) fn run(command: &mut Command, limit: Duration) -> Verdict {
    RANKS.iter().for_each(|name| _ = command.env_remove(name));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) => return Verdict::Unable(format!("{} does not start: {e}", command.get_program().display())),
    };
    let (out, errors) = (Output::of(child.stdout.take()), Output::of(child.stderr.take()));
    let ended = wait(&mut child, limit);
    let deadline = Instant::now() + GRACE;
    let (out, errors) = (out.text(deadline), errors.text(deadline));
    let verdict = out.lines().filter_map(|line| serde_json::from_str(line.strip_prefix(MARK)?).ok()).next_back();
    let last_words = errors.lines().rfind(|line| !line.trim().is_empty());
    let said = last_words.map_or_else(String::new, |words| format!(", saying \"{}\"", words.trim()));
    match (verdict, ended) {
        // A verdict counts, however the process ended after it.
        (Some(verdict), _) => verdict,
        (None, None) => Verdict::Failed(format!("it did not end within {} s{said}", limit.as_secs())),
        (None, Some(status)) => without_verdict(status, &said),
    }
}

/// The status of a child that has ended within `limit`; another is killed.
fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    while start.elapsed() < limit {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        thread::sleep(TICK);
    }
    // It may have ended by itself just now.
    let _ = child.kill();
    let killed = Instant::now();
    while killed.elapsed() < GRACE && matches!(child.try_wait(), Ok(None)) {
        thread::sleep(TICK);
    }
    None
}

fn without_verdict(status: ExitStatus, said: &str) -> Verdict {
    let faults = [
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGABRT, "SIGABRT"),
    ];
    match (status.code(), status.signal()) {
        (Some(code), _) => Verdict::Failed(format!("its process ended with exit code {code} and no result{said}")),
        (None, signal) => match faults.iter().find(|(fault, _)| Some(*fault) == signal) {
            Some((_, name)) => Verdict::Failed(format!("its process was ended by {name}{said}")),
            // Somebody else's, for instance for lack of memory: it says nothing about the GPU.
            None => Verdict::Unable(format!("its process was ended by signal {}{said}", signal.unwrap_or_default())),
        },
    }
}

/// What a child writes, taken while it runs, so that it does not wait for a reader.
struct Output {
    kept: Arc<Mutex<Vec<u8>>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Output {
    fn of(pipe: Option<impl Read + Send + 'static>) -> Output {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&kept);
        let reader = pipe.map(|pipe| thread::spawn(move || keep(pipe, &to)));
        Output { kept, reader }
    }

    /// All of it, or what there is at `deadline`: a process that the child has started may hold the pipe open.
    fn text(self, deadline: Instant) -> String {
        while self.reader.as_ref().is_some_and(|reader| !reader.is_finished()) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        String::from_utf8_lossy(&self.kept.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

/// Keeps the last bytes that come.
fn keep(mut pipe: impl Read, to: &Mutex<Vec<u8>>) {
    let mut block = [0; 4096];
    while let Ok(count @ 1..) = pipe.read(&mut block) {
        let mut kept = to.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&block[..count]);
        let surplus = kept.len().saturating_sub(MOST_BYTES);
        kept.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn shell(script: &str, limit: Duration) -> Verdict {
        run(Command::new("sh").args(["-c", script]), limit)
    }

    fn failed(text: &str) -> Verdict {
        Verdict::Failed(text.to_owned())
    }

    #[test]
    fn a_verdict_is_taken_among_other_output_and_whatever_comes_after() {
        for verdict in [Verdict::Passed, failed("a \"quoted\"\nreason"), Verdict::Unable("no memory".into())] {
            let line = line(&verdict).replace('\\', "\\\\").replace('\'', "'\\''");
            assert!(!line.contains('\n'));
            assert_eq!(shell(&format!("echo noise; printf '%b\\n' '{line}'; echo more"), LIMIT), verdict);
            assert_eq!(shell(&format!("printf '%b\\n' '{line}'; kill -SEGV $$"), LIMIT), verdict);
        }
    }

    #[test]
    fn an_end_without_a_verdict_is_told() {
        assert_eq!(shell("exit 3", LIMIT), failed("its process ended with exit code 3 and no result"));
        assert_eq!(
            shell("echo one >&2; echo the last >&2; echo >&2; exit 101", LIMIT),
            failed("its process ended with exit code 101 and no result, saying \"the last\"")
        );
        assert_eq!(shell("kill -SEGV $$", LIMIT), failed("its process was ended by SIGSEGV"));
        assert_eq!(shell("kill -ABRT $$", LIMIT), failed("its process was ended by SIGABRT"));
        // The system's lack of memory, or an impatient user, says nothing about the GPU.
        assert_eq!(shell("kill -KILL $$", LIMIT), Verdict::Unable("its process was ended by signal 9".into()));
        let none = run(&mut Command::new("/nowhere/srgan"), LIMIT);
        assert!(
            matches!(&none, Verdict::Unable(text) if text.starts_with("/nowhere/srgan does not start")),
            "{none:?}"
        );
    }

    #[test]
    fn garbage_is_no_verdict() {
        for garbage in ["srgan self-check: {", "srgan self-check: \"perfect\"", "passed", "\\377\\376"] {
            assert_eq!(
                shell(&format!("printf '%b\\n' '{garbage}'"), LIMIT),
                failed("its process ended with exit code 0 and no result"),
                "{garbage}"
            );
        }
        // More than a pipe holds, and more than is kept.
        let much = format!("yes garbage | head -c 3000000; echo '{}'", line(&Verdict::Passed));
        assert_eq!(shell(&much, LIMIT), Verdict::Passed);
    }

    /// Also one whose own child keeps its output open.
    #[test]
    fn a_check_that_hangs_is_ended() {
        let limit = Duration::from_secs(1);
        let start = Instant::now();
        let words = "it did not end within 1 s, saying \"waiting\"";
        assert_eq!(shell("echo waiting >&2; exec sleep 1000", limit), failed(words));
        assert_eq!(shell("echo waiting >&2; sleep 6 & wait", limit), failed(words));
        assert!(start.elapsed() < LIMIT);
    }

    #[test]
    fn a_check_has_no_rank() {
        let script =
            format!("[ -z \"$SLURM_PROCID$RANK\" ] && [ \"$KEPT\" = yes ] && echo '{}'", line(&Verdict::Passed));
        let mut command = Command::new("sh");
        command.args(["-c", &script]).envs([("SLURM_PROCID", "3"), ("RANK", "3"), ("KEPT", "yes")]);
        assert_eq!(run(&mut command, LIMIT), Verdict::Passed);
    }
}
