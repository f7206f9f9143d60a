//! Value types of keys that Lightning's `Trainer` has.

use super::field::Scalar;
use super::kind::Kind;
use super::tree::{Node, Plain, Wrong};

/// Ranks on each node (`Training.devices`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Devices {
    /// As many as the launcher has started.
    Auto,
    /// This many.
    Count(usize),
}

impl Devices {
    /// Most ranks of a node that can be named.
    const MAX: usize = 1024;
}

impl Scalar for Devices {
    fn parse(node: &Node) -> Result<Self, Wrong> {
        let expected = "auto or a number of devices from 1 to 1024";
        match (node.text(), node.plain()) {
            (Some(text), _) if text.trim().eq_ignore_ascii_case("auto") => Ok(Devices::Auto),
            (_, Some(Plain::Int(_))) if i64::parse(node).is_ok_and(|count| count == -1) => Ok(Devices::Auto),
            (Some(_), _) => match usize::parse(node) {
                Ok(count @ 1..=Self::MAX) => Ok(Devices::Count(count)),
                _ => Err(Wrong::type_of(node, expected)),
            },
            (None, _) => Err(Wrong::type_of(node, expected).hint("Training.gpus names GPUs by number")),
        }
    }

    fn kind() -> Kind {
        Kind::Either(vec![Kind::names(["auto"]), Kind::Whole])
    }

    fn emit(&self) -> String {
        match self {
            Devices::Auto => "auto".into(),
            Devices::Count(count) => count.emit(),
        }
    }
}

/// How long a process may train (`Training.max_time`), in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxTime(u64);

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

impl MaxTime {
    /// Longest time: 100 years.
    const MAX: u64 = 36_500 * DAY;

    /// The time in seconds.
    pub fn seconds(self) -> u64 {
        self.0
    }

    /// The forms of SLURM and of Lightning, minutes without a colon.
    fn of_text(text: &str) -> Option<u64> {
        let number = |part: &str| {
            let digits = !part.is_empty() && part.len() <= 9 && part.bytes().all(|b| b.is_ascii_digit());
            if digits { part.parse::<u64>().ok() } else { None }
        };
        let (days, rest) = match text.split_once('-') {
            Some((days, rest)) => (Some(number(days)?), rest),
            None => (None, text),
        };
        let parts = rest.split(':').map(number).collect::<Option<Vec<u64>>>()?;
        let units: &[u64] = match (days, parts.len()) {
            (Some(_), 1..=3) => &[HOUR, MINUTE, 1],
            (None, 1) => &[MINUTE],
            (None, 3) => &[HOUR, MINUTE, 1],
            (None, 4) => &[DAY, HOUR, MINUTE, 1],
            // Two parts are minutes and seconds to some, hours and minutes to others.
            _ => return None,
        };
        Some(days.unwrap_or(0) * DAY + parts.iter().zip(units).map(|(part, unit)| part * unit).sum::<u64>())
    }
}

impl std::fmt::Display for MaxTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (days, rest) = (self.0 / DAY, self.0 % DAY);
        if days > 0 {
            write!(f, "{days}-")?;
        }
        write!(f, "{:02}:{:02}:{:02}", rest / HOUR, rest % HOUR / MINUTE, rest % MINUTE)
    }
}

impl Scalar for MaxTime {
    fn parse(node: &Node) -> Result<Self, Wrong> {
        let expected = "a time as hours:minutes:seconds, days-hours:minutes:seconds or minutes";
        let seconds = node.text().and_then(|text| MaxTime::of_text(text.trim()));
        match seconds.ok_or_else(|| Wrong::type_of(node, expected))? {
            0 => Err(Wrong::new("must be above 0")),
            seconds if seconds > Self::MAX => Err(Wrong::new("must be at most 36500 days")),
            seconds => Ok(MaxTime(seconds)),
        }
    }

    fn kind() -> Kind {
        Kind::Either(vec![Kind::Text, Kind::Whole])
    }

    fn emit(&self) -> String {
        format!("\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_slurm_and_lightning() {
        for (text, seconds) in [
            ("23:50:00", 85_800),
            ("1-02:00:00", DAY + 2 * HOUR),
            ("1-02", DAY + 2 * HOUR),
            ("1-02:30", DAY + 2 * HOUR + 30 * MINUTE),
            ("00:12:00:00", 12 * HOUR),
            ("01:00:00:05", DAY + 5),
            ("90", 90 * MINUTE),
            ("0:90:00", 90 * MINUTE),
        ] {
            assert_eq!(MaxTime::of_text(text), Some(seconds), "{text}");
        }
        for text in ["", "23:50", "1:2:3:4:5", "1-", "-1", "a", "1-2:3:4:5", "1.5", "1 h", "12:-1:00", "99999999999"] {
            assert_eq!(MaxTime::of_text(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for seconds in [1, 85_800, DAY, 400 * DAY + 61] {
            assert_eq!(MaxTime::of_text(&MaxTime(seconds).to_string()), Some(seconds));
        }
    }
}
