//! How times look.

use std::time::Duration;

use lithdb_env::UnixMillis;
use serde::{Serialize, Serializer};

/// A time of the wall clock, in UTC; one beyond the calendar in milliseconds.
pub(crate) fn time(time: UnixMillis) -> String {
    let known = jiff::Timestamp::from_millisecond(time.0.min(i64::MAX as u64) as i64);
    known.map_or_else(|_| time.0.to_string(), |time| format!("{time:.3}"))
}

pub(crate) fn seconds<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    took.as_secs_f64().serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates_in_utc() {
        for (millis, shown) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(time(UnixMillis(millis)), shown);
        }
        assert_eq!(time(UnixMillis(u64::MAX)), u64::MAX.to_string());
    }
}
