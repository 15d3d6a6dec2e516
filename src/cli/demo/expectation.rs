//! What a step still waits for.

use super::payload::Arrival;
use super::shop::Expected;

/// Webhooks that must still arrive; one that nobody asked for is an error.
#[derive(Debug)]
pub(super) struct Expectation {
    missing: Vec<Expected>,
}

impl Expectation {
    pub fn new(expected: &[Expected]) -> Expectation {
        Expectation { missing: expected.to_vec() }
    }

    pub fn is_met(&self) -> bool {
        self.missing.is_empty()
    }

    /// Crosses one off.
    pub fn accept(&mut self, arrival: &Arrival) -> anyhow::Result<()> {
        let found = self.missing.iter().position(|expected| {
            (expected.trigger, expected.operation, expected.status)
                == (arrival.trigger.as_str(), arrival.operation.as_str(), arrival.status)
        });
        let Some(index) = found else {
            anyhow::bail!(
                "a webhook that nothing asked for: {} {} {} ({}), event {}, answered {}",
                arrival.trigger,
                arrival.operation,
                arrival.table,
                arrival.detail,
                arrival.event_id,
                arrival.status
            );
        };
        self.missing[index].count -= 1;
        self.missing.retain(|expected| expected.count > 0);
        Ok(())
    }

    /// For an error's text.
    pub fn missing(&self) -> String {
        let one = |expected: &Expected| {
            format!("{} × {} {} answered {}", expected.count, expected.trigger, expected.operation, expected.status)
        };
        self.missing.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;

    fn arrival(trigger: &str, status: u16) -> Arrival {
        Arrival {
            event_id: "1".into(),
            trigger: trigger.into(),
            operation: "INSERT".into(),
            table: "shop.orders".into(),
            current_retry: 0,
            max_retries: 0,
            status,
            detail: String::new(),
            committed_at: Utc::now(),
            arrived_at: Utc::now(),
        }
    }

    #[test]
    fn each_is_crossed_off_as_often_as_it_is_expected() {
        let expected = [Expected { trigger: "a", operation: "INSERT", status: 204, count: 2 }];
        let mut expectation = Expectation::new(&expected);
        expectation.accept(&arrival("a", 204)).expect("the first");
        assert_eq!(expectation.missing(), "1 × a INSERT answered 204");
        expectation.accept(&arrival("a", 204)).expect("the second");
        assert!(expectation.is_met());
        assert!(expectation.accept(&arrival("a", 204)).is_err(), "a third one is a duplicate");
    }

    #[test]
    fn another_answer_is_not_the_expected_one() {
        let expected = [Expected { trigger: "a", operation: "INSERT", status: 500, count: 1 }];
        assert!(Expectation::new(&expected).accept(&arrival("a", 204)).is_err());
    }
}
