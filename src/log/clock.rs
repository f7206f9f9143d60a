//! The time of day, for people.

use std::time::SystemTime;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// The local time; of a clock set beyond the year 9999, that year's end.
pub fn local_time() -> Zoned {
    local(SystemTime::now())
}

fn local(now: SystemTime) -> Zoned {
    let now =
        Timestamp::try_from(now).unwrap_or(if now > SystemTime::UNIX_EPOCH { Timestamp::MAX } else { Timestamp::MIN });
    now.to_zoned(TimeZone::system())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_that_is_far_off_has_a_time_all_the_same() {
        let year = Duration::from_secs(365 * 86_400);
        assert!(local(SystemTime::UNIX_EPOCH + 20_000 * year).year() >= 9999);
        assert!(local(SystemTime::UNIX_EPOCH - 20_000 * year).year() <= -9998);
        assert_eq!(local(SystemTime::UNIX_EPOCH + year.mul_f64(31.5)).year(), 2001);
    }
}
