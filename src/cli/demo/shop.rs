//! The sample shop: its tables, its triggers, and what happens in it. Data only.

use std::time::Duration;

use serde_json::{Value, json};

/// An outsider's tables: nothing in them knows of walhook.
pub(super) const SCHEMA: &str = "
    create schema shop;
    create table shop.customers (
        id    integer generated always as identity primary key,
        name  text not null,
        email text not null
    );
    create table shop.orders (
        id          integer generated always as identity primary key,
        customer_id integer not null references shop.customers,
        status      text not null default 'new',
        total       numeric(10, 2) not null
    );
    create table shop.order_items (
        order_id integer not null references shop.orders,
        line     integer not null,
        product  text not null,
        quantity integer not null,
        primary key (order_id, line)
    );";

pub(super) const STATUS_QUERY: &str =
    "select trigger, events, delivered, retrying, dead, attempts from walhook.status order by trigger";

/// The receiver's paths.
pub(super) const HEALTHY: &str = "/healthy";
/// Answers 500 to the first two attempts of an event.
pub(super) const FAILING_TWICE: &str = "/fails-twice";
/// How often [`FAILING_TWICE`] fails.
pub(super) const FAILURES: u64 = 2;

/// One event trigger, as its `create_event_trigger` call says it.
#[derive(Debug)]
pub(super) struct Trigger {
    pub name: &'static str,
    pub table: &'static str,
    /// For people.
    pub watches: &'static str,
    /// Operation and the columns that count.
    pub operations: &'static [(&'static str, Option<&'static str>)],
    pub path: &'static str,
    pub retries: u32,
}

pub(super) const TRIGGERS: &[Trigger] = &[
    Trigger {
        name: "customer_changed",
        table: "customers",
        watches: "insert, update, delete",
        operations: &[("insert", None), ("update", None), ("delete", None)],
        path: HEALTHY,
        retries: 0,
    },
    Trigger {
        name: "order_changed",
        table: "orders",
        watches: "insert, update, delete",
        operations: &[("insert", None), ("update", None), ("delete", None)],
        path: HEALTHY,
        retries: 0,
    },
    Trigger {
        name: "item_changed",
        table: "order_items",
        watches: "insert, delete",
        operations: &[("insert", None), ("delete", None)],
        path: HEALTHY,
        retries: 0,
    },
    Trigger {
        name: "order_shipped",
        table: "orders",
        watches: "update of status; 3 retries, 1 s apart",
        operations: &[("update", Some("status"))],
        path: FAILING_TWICE,
        retries: 3,
    },
];

impl Trigger {
    /// The body of `POST /v1/query`.
    pub fn request(&self, webhook: &str) -> Value {
        let mut args = json!({
            "name": self.name,
            "table": {"schema": "shop", "name": self.table},
            "webhook": webhook,
            "enable_manual": true,
            "retry_conf": {"num_retries": self.retries, "interval_sec": 1, "timeout_sec": 10},
        });
        for (operation, column) in self.operations {
            args[operation] = match column {
                Some(column) => json!({"columns": [column]}),
                None => json!({"columns": "*"}),
            };
        }
        json!({"type": "create_event_trigger", "args": args})
    }
}

/// One scene: statements, then the webhooks they must cause, in any order.
#[derive(Debug)]
pub(super) struct Step {
    pub title: &'static str,
    pub statements: &'static [&'static str],
    pub expected: &'static [Expected],
    /// How long the webhooks may take all together.
    pub within: Duration,
    /// Said when they are there.
    pub note: Option<&'static str>,
}

/// A webhook that must arrive, `count` times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    pub trigger: &'static str,
    pub operation: &'static str,
    /// What the receiver answers.
    pub status: u16,
    pub count: usize,
}

const fn accepted(trigger: &'static str, operation: &'static str, count: usize) -> Expected {
    Expected { trigger, operation, status: 204, count }
}

const WITHIN: Duration = Duration::from_secs(5);
/// Two retries at an interval of a second, and room.
const WITHIN_RETRIES: Duration = Duration::from_secs(9);

pub(super) const STEPS: &[Step] = &[
    Step {
        title: "A row is inserted",
        statements: &["insert into shop.customers (name, email) values ('Ada', 'ada@example.com')"],
        expected: &[accepted("customer_changed", "INSERT", 1)],
        within: WITHIN,
        note: None,
    },
    Step {
        title: "It is updated",
        statements: &["update shop.customers set email = 'ada@lovelace.example' where name = 'Ada'"],
        expected: &[accepted("customer_changed", "UPDATE", 1)],
        within: WITHIN,
        note: None,
    },
    Step {
        title: "One transaction writes four rows",
        statements: &[
            "begin",
            "insert into shop.orders (customer_id, total) values (1, 49.90)",
            "insert into shop.order_items values (1, 1, 'Tea', 2), (1, 2, 'Teapot', 1), (1, 3, 'Cup', 4)",
            "commit",
        ],
        expected: &[accepted("order_changed", "INSERT", 1), accepted("item_changed", "INSERT", 3)],
        within: WITHIN,
        note: None,
    },
    Step {
        title: "One transaction is rolled back, then a row is deleted",
        statements: &[
            "begin",
            "insert into shop.customers (name, email) values ('Mallory', 'mallory@example.com')",
            "rollback",
            "delete from shop.order_items where product = 'Cup'",
        ],
        expected: &[accepted("item_changed", "DELETE", 1)],
        within: WITHIN,
        note: Some("The rolled-back row sent nothing."),
    },
    Step {
        title: "An endpoint fails twice and is tried again",
        statements: &["update shop.orders set status = 'shipped' where id = 1"],
        expected: &[
            accepted("order_changed", "UPDATE", 1),
            Expected { trigger: "order_shipped", operation: "UPDATE", status: 500, count: FAILURES as usize },
            accepted("order_shipped", "UPDATE", 1),
        ],
        within: WITHIN_RETRIES,
        note: Some("The healthy endpoint did not wait for the failing one."),
    },
];

/// How many events the steps make.
pub(super) fn expected_events() -> u64 {
    let expected = STEPS.iter().flat_map(|step| step.expected).filter(|expected| expected.status < 300);
    expected.map(|expected| expected.count as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_is_made_by_the_public_call() {
        let request = TRIGGERS[3].request("http://127.0.0.1:1/fails-twice");
        assert_eq!(request["type"], "create_event_trigger");
        assert_eq!(request["args"]["update"], json!({"columns": ["status"]}));
        assert_eq!(request["args"]["table"], json!({"schema": "shop", "name": "orders"}));
        assert_eq!(request["args"]["retry_conf"]["num_retries"], 3);
        assert!(request["args"].get("insert").is_none());
    }

    #[test]
    fn every_expected_webhook_has_a_trigger_that_watches_for_it() {
        for expected in STEPS.iter().flat_map(|step| step.expected) {
            let trigger = TRIGGERS.iter().find(|trigger| trigger.name == expected.trigger).expect("a trigger");
            let operation = expected.operation.to_lowercase();
            assert!(trigger.operations.iter().any(|(name, _)| *name == operation), "{expected:?}");
        }
        assert_eq!(expected_events(), 9);
    }
}
