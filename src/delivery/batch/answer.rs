//! Which events of a batch an answer refuses. The form is that of AWS Lambda's batch responses:
//! `{"batchItemFailures": [{"itemIdentifier": "<event id>"}]}`. Pure.

use std::collections::HashSet;

use serde_json::Value;

use crate::delivery::http::Body;
use crate::model::{EventId, Outcome};

const LIST: &str = "batchItemFailures";
const ID: &str = "itemIdentifier";

/// What a 2xx answer refuses.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::delivery) enum Refused {
    Nothing,
    These(HashSet<EventId>),
    /// It refuses something, or may do so, and what cannot be known: so nothing of it may count as accepted.
    All(&'static str),
}

impl Refused {
    /// Reads an answer to a batch of these events. One that has no such list accepts them all, whatever it says.
    pub(super) fn read(outcome: &Outcome, body: &Body, ids: impl Iterator<Item = EventId>) -> Refused {
        if !outcome.is_success() {
            return Refused::Nothing;
        }
        match serde_json::from_slice::<Value>(&body.text) {
            Ok(Value::Object(mut answer)) if body.is_whole => match answer.remove(LIST) {
                None | Some(Value::Null) => Refused::Nothing,
                Some(list) => read_list(&list, &ids.collect()),
            },
            Ok(_) if body.is_whole => Refused::Nothing,
            _ => unreadable(body),
        }
    }

    /// Why this event of the batch is not accepted.
    pub(super) fn why(&self, event: EventId) -> Option<&'static str> {
        match self {
            Refused::Nothing => None,
            Refused::These(ids) => ids.contains(&event).then_some("this event of the batch is refused"),
            Refused::All(why) => Some(why),
        }
    }
}

fn read_list(list: &Value, ids: &HashSet<EventId>) -> Refused {
    let Value::Array(items) = list else { return Refused::All("its batchItemFailures is no list") };
    let mut refused = HashSet::new();
    for item in items {
        let id = item.get(ID).and_then(Value::as_str);
        match id.and_then(|id| EventId::parse_str(id).ok()).filter(|id| ids.contains(id)) {
            Some(id) => refused.insert(id),
            None => return Refused::All("an itemIdentifier in its batchItemFailures is not the id of an event sent"),
        };
    }
    if refused.is_empty() { Refused::Nothing } else { Refused::These(refused) }
}

/// What is no JSON is as good as nothing said; but a list that was cut off, or broken, is one.
fn unreadable(body: &Body) -> Refused {
    let is_object = match body.text.trim_ascii_start().first() {
        Some(first) => *first == b'{',
        None => !body.is_whole,
    };
    if !body.is_whole && is_object {
        Refused::All("it is an object of more than 64 KiB, which may refuse events further on than is read")
    } else if is_object && body.text.windows(LIST.len()).any(|part| part == LIST.as_bytes()) {
        Refused::All("it names batchItemFailures and is no JSON")
    } else {
        Refused::Nothing
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::Response;

    fn read(status: u16, text: &str, is_whole: bool) -> Refused {
        let outcome = Outcome::Answered(Response { status, ..Response::default() });
        let body = Body { text: text.as_bytes().to_vec(), is_whole };
        Refused::read(&outcome, &body, (1..=3).map(Uuid::from_u128))
    }

    fn list(ids: &[&str]) -> String {
        let items: Vec<String> = ids.iter().map(|id| format!(r#"{{"itemIdentifier":"{id}"}}"#)).collect();
        format!(r#"{{"batchItemFailures":[{}]}}"#, items.join(","))
    }

    const TWO: &str = "00000000-0000-0000-0000-000000000002";
    const FOUR: &str = "00000000-0000-0000-0000-000000000004";

    #[test]
    fn what_is_no_list_accepts_all() {
        for text in ["", "ok", "[]", "7", "\"batchItemFailures\"", "{}", "{\"batchItemFailures\":null}", "<html>"] {
            assert_eq!(read(200, text, true), Refused::Nothing, "{text}");
        }
        assert_eq!(read(207, &list(&[]), true), Refused::Nothing);
        assert_eq!(read(200, "[{\"id\": 1}, {\"i", false), Refused::Nothing, "an echo of what was sent");
        assert_eq!(read(500, &list(&[TWO]), true), Refused::Nothing, "the status refuses all");
    }

    #[test]
    fn ids_that_were_sent_are_refused_and_no_others() {
        let refused = read(200, &list(&[TWO, TWO]), true);
        assert_eq!(refused, Refused::These(HashSet::from([Uuid::from_u128(2)])));
        assert!(refused.why(Uuid::from_u128(2)).is_some() && refused.why(Uuid::from_u128(1)).is_none());
        let padded = format!(" {}\n", list(&[TWO]).replace(TWO, &TWO.to_uppercase()));
        assert_eq!(read(202, &padded, true), refused);
    }

    #[test]
    fn a_list_that_cannot_be_trusted_refuses_all() {
        let broken = list(&[TWO]).replace("]}", "");
        for (text, is_whole) in [
            (list(&[TWO, FOUR]).as_str(), true),
            (list(&["2"]).as_str(), true),
            (list(&[""]).as_str(), true),
            ("{\"batchItemFailures\":[{\"id\":1}]}", true),
            ("{\"batchItemFailures\":[null]}", true),
            ("{\"batchItemFailures\":\"all\"}", true),
            ("{\"batchItemFailures\":{}}", true),
            (broken.as_str(), true),
            (broken.as_str(), false),
            ("{\"log\": \"xxxxxx", false),
            (" \n ", false),
        ] {
            assert!(matches!(read(200, text, is_whole), Refused::All(_)), "{text}");
        }
    }
}
