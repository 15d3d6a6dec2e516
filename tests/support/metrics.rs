//! A page of `/metrics`, read by the rules of the format and not by the library that writes it.

use std::collections::{BTreeMap, BTreeSet};

use super::scene::DEADLINE;
use super::wait::eventually;
use super::walhook::Walhook;

/// Its samples, each by name and labels.
#[derive(Debug)]
pub struct Page(BTreeMap<(String, BTreeMap<String, String>), f64>);

/// A family's name and type.
type Family = (String, String);

impl Page {
    /// Scrapes; `token` is sent as a bearer token.
    pub async fn scrape(walhook: &Walhook, token: &str) -> Page {
        let (status, text) = Page::get(walhook, Some(token)).await;
        assert_eq!(status, 200, "{text}");
        Page::parse(&text)
    }

    /// Scrapes until the page shows this.
    pub async fn wait_for(walhook: &Walhook, token: &str, what: &str, shows: impl Fn(&Page) -> bool) -> Page {
        let check = || async {
            let page = Page::scrape(walhook, token).await;
            if shows(&page) { Ok(page) } else { Err(page) }
        };
        eventually(what, DEADLINE, check).await
    }

    /// Status and body.
    pub async fn get(walhook: &Walhook, token: Option<&str>) -> (u16, String) {
        let mut request = reqwest::Client::new().get(walhook.url("/metrics"));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        if status == 200 {
            let kind = answer.headers()["content-type"].to_str().expect("a type").to_owned();
            assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
        }
        (status, answer.text().await.expect("a body"))
    }

    /// The value of a sample; panics where there is none.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| panic!("no {name} {labels:?} in {self:#?}"))
    }

    /// The value of a sample, if there is one.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.0.get(&(name.to_owned(), labels)).copied()
    }

    fn parse(text: &str) -> Page {
        let body = text.strip_suffix("# EOF\n").expect("it ends with # EOF");
        let (mut families, mut samples) = (BTreeSet::new(), BTreeMap::new());
        let (mut helped, mut family): (Option<String>, Option<Family>) = (None, None);
        for line in body.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, text) = help.split_once(' ').expect("a help");
                assert!(!text.is_empty() && families.insert(name.to_owned()), "{line}");
                helped = Some(name.to_owned());
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a type");
                assert_eq!(helped.take().as_deref(), Some(name), "each type follows its help");
                family = Some((name.to_owned(), kind.to_owned()));
            } else {
                let (name, labels, value) = sample(line);
                let (of, kind) = family.as_ref().expect("a type before it");
                let suffixes: &[&str] = match kind.as_str() {
                    "gauge" => &[""],
                    "counter" => &["_total"],
                    "info" => &["_info"],
                    "histogram" => &["_bucket", "_count", "_sum"],
                    other => panic!("type {other}"),
                };
                assert!(suffixes.iter().any(|suffix| name == format!("{of}{suffix}")), "{line} in {of}");
                assert!(value.is_finite() && value >= 0.0, "{line}");
                assert!(samples.insert((name, labels), value).is_none(), "twice: {line}");
            }
        }
        Page(samples)
    }
}

/// Name, labels and value.
fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let (rest, value) = line.rsplit_once(' ').expect("a value");
    let value = value.parse().unwrap_or_else(|_| panic!("a number: {line}"));
    let (name, labels) = match rest.split_once('{') {
        None => (rest, BTreeMap::new()),
        Some((name, labels)) => (name, read_labels(labels.strip_suffix('}').expect("an end of labels"))),
    };
    let is_name = name.starts_with("walhook_") && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    assert!(is_name, "{line}");
    (name.to_owned(), labels, value)
}

fn read_labels(mut text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").expect("a label");
        let (mut value, mut characters) = (String::new(), rest.chars());
        loop {
            match characters.next().expect("an end of the value") {
                '"' => break,
                '\\' => match characters.next() {
                    Some('n') => value.push('\n'),
                    Some(escaped @ ('"' | '\\')) => value.push(escaped),
                    other => panic!("escaped {other:?}"),
                },
                other => value.push(other),
            }
        }
        assert!(labels.insert(name.to_owned(), value).is_none(), "{text}");
        text = characters.as_str();
        text = text.strip_prefix(',').unwrap_or(text);
    }
    labels
}
