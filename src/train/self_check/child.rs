//! A check as a process of its own: a kernel that hangs, or that ends the GPU's context or the process, ends the check
//! and nothing else.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Verdict;

/// The variable that a child finds its parent's process id in.
pub(super) const PARENT: &str = "SRGAN_SELF_CHECK_PARENT";

/// What a child's own lines begin with.
const MARK: &str = "srgan self-check: ";

/// What is kept of a child's output.
const MOST_BYTES: usize = 1 << 16;
/// How often a child is looked at.
const TICK: Duration = Duration::from_millis(20);
/// The most that counts as waiting between two looks: what is more, this process was suspended, and the child with it.
const LONGEST_TICK: Duration = Duration::from_secs(1);
/// How long a child may take to end after its verdict, an ended child's output to come, and a killed child to end: one
/// that waits for a driver does not end at all.
const GRACE: Duration = Duration::from_secs(2);

/// What a child says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Saying {
    /// It waits for the driver, the compiler or the CPU.
    Preparing,
    /// It waits for the GPU.
    Computing,
    /// The result, and what it holds for.
    Ended { checked_on: String, verdict: Verdict },
}

/// The line that says it.
pub(super) fn line(saying: &Saying) -> String {
    format!("{MARK}{}", serde_json::to_string(saying).unwrap_or_default())
}

/// Runs a check of what is called `checked_on`, for `limit` at most.
pub(super) fn run(command: &mut Command, checked_on: &str, limit: Duration) -> Verdict {
    command.env(PARENT, std::process::id().to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) => return Verdict::Unable(format!("{} does not start: {e}", command.get_program().display())),
    };
    let (out, errors) = (Output::of(child.stdout.take()), Output::of(child.stderr.take()));
    let status = wait(&mut child, &out, limit);
    let deadline = Instant::now() + GRACE;
    let (out, errors) = (out.text(deadline), errors.text(deadline));
    let last_words = errors.lines().rfind(|line| !line.trim().is_empty());
    let said = last_words.map_or_else(String::new, |words| format!(", saying \"{}\"", words.trim()));
    match (last_saying(&out), status) {
        // A verdict counts, however the process ended after it.
        (Some(Saying::Ended { checked_on: other, verdict }), _) => held(verdict, &other, checked_on),
        (Some(Saying::Computing), None) => {
            Verdict::Failed(format!("it did not end within {} s{said}", limit.as_secs()))
        }
        // A slow machine, file system or compiler.
        (_, None) => Verdict::Unable(format!("its kernels were not ready within {} s{said}", limit.as_secs())),
        (_, Some(status)) => without_verdict(status, &said),
    }
}

/// A verdict, if it was found on what it is wanted for. One that could not be found may not know.
fn held(verdict: Verdict, found_on: &str, wanted_on: &str) -> Verdict {
    match verdict {
        Verdict::Passed | Verdict::Failed(_) if found_on != wanted_on => Verdict::Unable(format!(
            "the program that was started for it is another one, or found another GPU: {found_on}, not {wanted_on}"
        )),
        verdict => verdict,
    }
}

/// The verdict, else what was said last.
fn last_saying(out: &str) -> Option<Saying> {
    let sayings = || out.lines().rev().filter_map(|line| serde_json::from_str(line.strip_prefix(MARK)?).ok());
    sayings().find(|saying| matches!(saying, Saying::Ended { .. })).or_else(|| sayings().next())
}

/// The status of a child that has ended within `limit`; another is killed, and soon if its verdict is there.
fn wait(child: &mut Child, out: &Output, limit: Duration) -> Option<ExitStatus> {
    let (mut waited, mut end) = (Duration::ZERO, limit);
    let mut has_verdict = false;
    while waited < end {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if !has_verdict && matches!(last_saying(&out.so_far()), Some(Saying::Ended { .. })) {
            (has_verdict, end) = (true, limit.min(waited + GRACE));
        }
        let start = Instant::now();
        thread::sleep(TICK);
        waited += start.elapsed().min(LONGEST_TICK);
    }
    // It may have ended by itself just now.
    let _ = child.kill();
    let killed = Instant::now();
    while killed.elapsed() < GRACE && matches!(child.try_wait(), Ok(None)) {
        thread::sleep(TICK);
    }
    None
}

/// A panic and a fault are results. Any other end is that of a program that did not come to its check: a loader's that
/// misses a library, an older build's that does not know the arguments.
fn without_verdict(status: ExitStatus, said: &str) -> Verdict {
    const PANIC: i32 = 101;
    let faults = [
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGABRT, "SIGABRT"),
    ];
    let fault = faults.iter().find(|(fault, _)| Some(*fault) == status.signal());
    match (status.code(), fault) {
        (Some(PANIC), _) => Verdict::Failed(format!("its process panicked{said}")),
        (Some(code), _) => Verdict::Unable(format!("its process ended with exit code {code} and no result{said}")),
        (None, Some((_, name))) => Verdict::Failed(format!("its process was ended by {name}{said}")),
        // Somebody else's, for instance for lack of memory: it says nothing about the GPU.
        (None, None) => {
            Verdict::Unable(format!("its process was ended by signal {}{said}", status.signal().unwrap_or_default()))
        }
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
        self.so_far()
    }

    /// What there is.
    fn so_far(&self) -> String {
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
        run(Command::new("sh").args(["-c", script]), "this gpu", limit)
    }

    fn failed(text: &str) -> Verdict {
        Verdict::Failed(text.to_owned())
    }

    fn unable(text: &str) -> Verdict {
        Verdict::Unable(text.to_owned())
    }

    /// A command that says it.
    fn say(saying: &Saying) -> String {
        let line = line(saying).replace('\\', "\\\\").replace('\'', "'\\''");
        assert!(!line.contains('\n'));
        format!("printf '%b\\n' '{line}'")
    }

    fn ended(checked_on: &str, verdict: &Verdict) -> String {
        say(&Saying::Ended { checked_on: checked_on.to_owned(), verdict: verdict.clone() })
    }

    #[test]
    fn a_verdict_is_taken_among_other_output_and_whatever_comes_after() {
        for verdict in [Verdict::Passed, failed("a \"quoted\"\nreason"), unable("no memory")] {
            let said = ended("this gpu", &verdict);
            assert_eq!(shell(&format!("echo noise; {said}; echo more"), LIMIT), verdict);
            assert_eq!(shell(&format!("{said}; {}; kill -SEGV $$", say(&Saying::Computing)), LIMIT), verdict);
        }
    }

    /// Of an older or newer build, or with other GPUs visible.
    #[test]
    fn a_verdict_on_something_else_is_none() {
        for verdict in [Verdict::Passed, failed("wrong")] {
            let Verdict::Unable(text) = shell(&ended("another gpu", &verdict), LIMIT) else { panic!("{verdict:?}") };
            assert!(text.ends_with("found another GPU: another gpu, not this gpu"), "{text}");
        }
        assert_eq!(shell(&ended("", &unable("no driver")), LIMIT), unable("no driver"));
    }

    #[test]
    fn an_end_without_a_verdict_is_told() {
        // A loader that misses a library, a build that does not know the arguments, one that left early.
        for code in [127, 2, 1, 0] {
            let text = format!("its process ended with exit code {code} and no result");
            assert_eq!(shell(&format!("exit {code}"), LIMIT), Verdict::Unable(text));
        }
        assert_eq!(
            shell("echo one >&2; echo the last >&2; echo >&2; exit 101", LIMIT),
            failed("its process panicked, saying \"the last\"")
        );
        assert_eq!(shell("kill -SEGV $$", LIMIT), failed("its process was ended by SIGSEGV"));
        assert_eq!(shell("kill -ABRT $$", LIMIT), failed("its process was ended by SIGABRT"));
        // The system's lack of memory, or an impatient user, says nothing about the GPU.
        assert_eq!(shell("kill -KILL $$", LIMIT), unable("its process was ended by signal 9"));
        let none = run(&mut Command::new("/nowhere/srgan"), "this gpu", LIMIT);
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
                unable("its process ended with exit code 0 and no result"),
                "{garbage}"
            );
        }
        // More than a pipe holds, and more than is kept.
        let much = format!("yes garbage | head -c 3000000; {}", ended("this gpu", &Verdict::Passed));
        assert_eq!(shell(&much, LIMIT), Verdict::Passed);
    }

    /// Also one whose own child keeps its output open.
    #[test]
    fn a_check_that_hangs_is_ended() {
        let limit = Duration::from_secs(1);
        let start = Instant::now();
        let computing = say(&Saying::Computing);
        let words = "it did not end within 1 s, saying \"waiting\"";
        assert_eq!(shell(&format!("{computing}; echo waiting >&2; exec sleep 1000"), limit), failed(words));
        assert_eq!(shell(&format!("{computing}; echo waiting >&2; sleep 6 & wait"), limit), failed(words));
        // Until it computes, and where it prepares again, the GPU is not what it waits for.
        let slow = unable("its kernels were not ready within 1 s");
        assert_eq!(shell("exec sleep 1000", limit), slow);
        assert_eq!(shell(&format!("{computing}; {}; exec sleep 1000", say(&Saying::Preparing)), limit), slow);
        assert!(start.elapsed() < LIMIT);
    }

    #[test]
    fn a_verdict_is_not_kept_waiting_by_a_process_that_does_not_end() {
        let start = Instant::now();
        let script = format!("{}; exec sleep 1000", ended("this gpu", &Verdict::Passed));
        assert_eq!(shell(&script, 2 * LIMIT), Verdict::Passed);
        assert!(start.elapsed() < LIMIT);
    }

    #[test]
    fn a_child_knows_its_parent() {
        let said = ended("this gpu", &Verdict::Passed);
        assert_eq!(shell(&format!("[ \"${PARENT}\" = $PPID ] && {said}"), LIMIT), Verdict::Passed);
    }
}
