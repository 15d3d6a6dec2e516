//! The decoder and the printer of values never panic, whatever bytes come. What is checked is in `fuzz/bodies.rs`; here
//! it sees mutations of what Postgres sends. `WALHOOK_TEST_SEED` repeats a run.

#[path = "../fuzz/bodies.rs"]
mod bodies;
mod support;

use support::load::Dice;
use support::messages::{NULL, UNCHANGED, delete, insert, message, update};
use walhook::pgoutput::{DecodeError, decode};

const ROUNDS: u64 = 60_000;

fn messages() -> Vec<Vec<u8>> {
    let mut relation = b"R\0\0\0\x09public\0users\0f\0\x02".to_vec();
    relation.extend(b"\x01id\0\0\0\0\x17\xff\xff\xff\xff\0name\0\0\0\0\x19\xff\xff\xff\xff");
    vec![
        [b"B".as_slice(), &[0; 16], &[0, 0, 0, 9]].concat(),
        [b"C\0".as_slice(), &[0; 24]].concat(),
        b"M\x01\0\0\0\0\0\0\0\x05walhook\0\0\0\0\x02hi".to_vec(),
        b"T\0\0\0\x02\x01\0\0\x4e\x20\0\0\x4e\x21".to_vec(),
        b"Y\0\0\x4e\x20public\0mood\0".to_vec(),
        b"O\0\0\0\0\0\0\0\x05elsewhere\0".to_vec(),
        relation,
        insert(&["1", "a \"b\"", NULL]),
        update(None, &["1", NULL, UNCHANGED]),
        update(Some((b'K', &["1", NULL, NULL])), &["2", "a", "b"]),
        update(Some((b'O', &["1", "x", "y"])), &["1", "é🦀", UNCHANGED]),
        delete(b'O', &["1", "", "z"]),
        message(b'D', &[(b'K', &["1"])]),
    ]
}

const TEXTS: &[&str] = &[
    "{1,NULL,3}",
    "{}",
    "[0:1][-1:0]={{1,2},{3,4}}",
    "{\"a \\\"b\\\"\",\"{1,2}\",NULL,\"NULL\",x}",
    "{(1,2),(0,0);(3,3),(1,1)}",
    "(1,\"a \"\"b\"\"\",,t)",
    "()",
    "(,)",
    "(\"{\"\"(1,x)\"\",\"\"(2,\\\\\"\"y\\\\\"\")\"\"}\",\"{\"\"k\"\": [1, null]}\")",
    "(1,t,[1],\"2018-09-05 07:14:21\",\"2018-09-05 07:14:21+00\",text,\"\"\"a\"\"=>\"\"b\"\"\",\"1 2\",3)",
    "\"a\"=>\"b\", \"c\\\"d\"=>NULL",
    "",
    "1 -2 3",
    "26 4294967295",
    "infinity",
    "NaN",
    "{\"k\": \"v\"}",
    "t",
];

/// Changes a few bytes: another value, a bit, one more, one less, an end, or a part of another text.
fn mutate(dice: &mut Dice, mut bytes: Vec<u8>, other: &[u8]) -> Vec<u8> {
    const TELLING: &[u8] = b"{}()[],;\"\\=> NULLt10-.:\0\xff\x7fu";
    for _ in 0..=dice.below(4) {
        let place = dice.below(bytes.len() as u64 + 1) as usize;
        let telling = TELLING[dice.below(TELLING.len() as u64) as usize];
        let random = dice.below(256) as u8;
        match (dice.below(7), bytes.get_mut(place)) {
            (0, Some(byte)) => *byte = random,
            (1, Some(byte)) => *byte = telling,
            (2, Some(byte)) => *byte ^= 1 << (random % 8),
            (3, Some(_)) => drop(bytes.remove(place)),
            (4, _) => bytes.truncate(place),
            (5, _) => bytes.extend_from_slice(&other[..dice.below(other.len() as u64 + 1) as usize]),
            _ => bytes.insert(place, telling),
        }
    }
    bytes
}

fn on_mutations(originals: &[Vec<u8>], check: impl Fn(&[u8])) {
    let mut dice = Dice::from_environment();
    originals.iter().for_each(|original| check(original));
    for _ in 0..ROUNDS {
        let mut one = || &originals[dice.below(originals.len() as u64) as usize];
        let (original, other) = (one().clone(), one());
        check(&mutate(&mut dice, original, other));
    }
}

#[test]
fn every_message_that_was_damaged_is_an_error_or_another_message() {
    let originals = messages();
    assert!(originals.iter().all(|original| decode(original).is_ok()), "they begin as messages");
    on_mutations(&originals, bodies::decode_message);
}

#[test]
fn every_text_becomes_one_json_value_whatever_type_it_is_taken_for() {
    let originals: Vec<Vec<u8>> = TEXTS.iter().map(|text| text.as_bytes().to_vec()).collect();
    on_mutations(&originals, bodies::print_value);
}

#[test]
fn an_unknown_tag_is_named() {
    for tag in (0..=u8::MAX).filter(|tag| !bodies::TAGS.contains(tag)) {
        let error = decode(&[tag, 0, 0]).expect_err("no message");
        assert_eq!(error, DecodeError::UnknownTag(char::from(tag)));
        assert!(error.to_string().contains(&format!("{:?}", char::from(tag))), "{error}");
    }
}
