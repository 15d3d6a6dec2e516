//! Whether a definition's requests can be made: its URL and its headers, with the environment as it is now.

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};

use super::Inconsistency;
use crate::model::{Definition, Environment};

/// Checks URL and headers as delivery will use them.
pub(super) fn check(definition: &Definition, environment: &Environment) -> Result<(), Inconsistency> {
    check_url(&environment.resolve_webhook(&definition.webhook)?).map_err(Inconsistency::Webhook)?;
    for header in &definition.headers {
        HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| Inconsistency::HeaderName(header.name.clone()))?;
        let value = environment.resolve_header(&header.value)?;
        HeaderValue::from_bytes(value.as_bytes()).map_err(|_| Inconsistency::HeaderValue(header.name.clone()))?;
    }
    Ok(())
}

fn check_url(text: &str) -> Result<(), &'static str> {
    let url: Uri = text.parse().map_err(|_| "it cannot be read as a URL (spaces and non-ASCII must be %-encoded)")?;
    match url.scheme_str() {
        Some("http" | "https") => {}
        Some(_) => return Err("its scheme is neither http nor https"),
        None => return Err("it does not start with http:// or https://"),
    }
    if url.host().is_none_or(str::is_empty) {
        return Err("it names no host");
    }
    // Uri reads host and port late: an unreadable port shows only here.
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let authority = authority.rsplit_once('@').map_or(authority, |(_, rest)| rest);
    let port = authority.rsplit_once(']').map_or(authority, |(_, rest)| rest).rsplit_once(':').map(|(_, port)| port);
    match port {
        Some(digits) if digits.parse::<u16>().is_err() => Err("its port is not a number up to 65535"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        Header, HeaderValue as Value, Limits, OnDead, Operations, Ordering, RetryConf, Subject, TableName, Webhook,
    };

    fn definition(url: &str, headers: Vec<Header>) -> Definition {
        Definition {
            name: "t".into(),
            source: "default".into(),
            subject: Subject::Table(TableName::new("public", "users")),
            webhook: Webhook::Url(url.into()),
            operations: Operations::default(),
            enable_manual: true,
            headers,
            retry_conf: RetryConf::default(),
            limits: Limits::default(),
            batch: None,
            fire_on_unchanged: false,
            trigger_on_replication: false,
            transaction: false,
            ordering: Ordering::default(),
            on_dead: OnDead::default(),
        }
    }

    fn check_here(definition: &Definition) -> Result<(), String> {
        let environment = Environment::of(&[("BASE", "https://receiver"), ("SECRET", "line\nend")]);
        check(definition, &environment).map_err(|error| error.to_string())
    }

    #[test]
    fn usable_urls_pass() {
        for url in [
            "http://a",
            "https://a:1/p?q=1",
            "{{BASE}}/hook",
            "http://[::1]:8080/x",
            "http://user:pw@a/",
            "http://[::1]/",
        ] {
            assert_eq!(check_here(&definition(url, Vec::new())), Ok(()), "{url}");
        }
    }

    #[test]
    fn unusable_urls_are_refused_without_printing_them() {
        for url in [
            "",
            "hook",
            "/path",
            "ftp://a/",
            "http://",
            "http:///p",
            "http://a b/",
            "http://a:99999/",
            "http://ä/",
            "a:80",
        ] {
            let error = check_here(&definition(url, Vec::new())).expect_err(url);
            assert!(error.contains("not a usable URL") && error.contains("give one like"), "{url}: {error}");
        }
    }

    #[test]
    fn headers_that_cannot_be_sent_are_refused() {
        let header = |name: &str, value: Value| definition("http://a", vec![Header { name: name.into(), value }]);
        assert_eq!(check_here(&header("X-A", Value::Literal("grün {{BASE}}".into()))), Ok(()));
        for name in ["", "a b", "a:b", "ä", "a\n"] {
            let error = check_here(&header(name, Value::Literal("v".into()))).expect_err(name);
            assert!(error.contains("cannot be sent"), "{error}");
        }
        let error = check_here(&header("X-A", Value::FromEnv("SECRET".into()))).expect_err("a line end");
        assert!(error.contains("value of header \"X-A\"") && !error.contains("line\n"), "{error}");
        let error = check_here(&header("X-A", Value::FromEnv("NONE".into()))).expect_err("unset");
        assert_eq!(error, "environment variable 'NONE' not set");
    }
}
