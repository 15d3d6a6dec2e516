//! Which transactions a statement saw.

/// A snapshot as `pg_current_snapshot()` shows it. Transaction numbers are compared modulo 2^32, as the stream has
/// them: two that are in use at the same time are never further apart than half of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// The first number that was not over yet at any rate.
    end: u32,
    /// Those before it that were not over either.
    running: Vec<u32>,
}

impl Snapshot {
    /// Reads `xmin:xmax:xip,xip,…`.
    pub(super) fn parse(text: &str) -> Option<Snapshot> {
        let number = |text: &str| text.parse::<u64>().ok().map(|full| full as u32);
        let mut parts = text.split(':');
        let (_, end, running) = (parts.next()?, number(parts.next()?)?, parts.next()?);
        let running = running.split(',').filter(|part| !part.is_empty()).map(number).collect::<Option<_>>()?;
        Some(Snapshot { end, running })
    }

    /// Whether what a transaction did is part of what was read.
    pub(super) fn sees(&self, xid: u32) -> bool {
        (xid.wrapping_sub(self.end) as i32) < 0 && !self.running.contains(&xid)
    }
}

#[cfg(test)]
mod tests {
    use super::Snapshot;

    #[test]
    fn a_snapshot_sees_what_was_over_when_it_was_taken() {
        let snapshot = Snapshot::parse("735:742:735,740").expect("a snapshot");
        let seen: Vec<u32> = (730..745).filter(|xid| snapshot.sees(*xid)).collect();
        assert_eq!(seen, [730, 731, 732, 733, 734, 736, 737, 738, 739, 741]);
        assert_eq!(Snapshot::parse("735:735:").expect("none running").running, [0; 0]);
        for text in ["", "1", "1:2", "1:x:", "1:2:3,x"] {
            assert_eq!(Snapshot::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn numbers_that_wrapped_around_are_compared_as_the_stream_has_them() {
        // 2^32 + 5 is 5 in the stream; 4294967290 was six numbers before 2^32.
        let snapshot = Snapshot::parse("4294967290:4294967301:4294967290,4294967299").expect("a snapshot");
        assert!(snapshot.sees(4_294_967_289) && snapshot.sees(4_294_967_291) && snapshot.sees(4));
        assert!(!snapshot.sees(4_294_967_290) && !snapshot.sees(3) && !snapshot.sees(5) && !snapshot.sees(6));
    }
}
