//! Who calls: the admin secret and the role (reference/hasura.md, 1.1), or a scraper.

use std::net::IpAddr;

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::uri::Authority;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::hasura::ApiError;

const SECRET_HEADER: &str = "x-hasura-admin-secret";
const DEPRECATED_SECRET_HEADER: &str = "x-hasura-access-key";
const ROLE_HEADER: &str = "x-hasura-role";
const BEARER: &[u8] = b"bearer ";
const ADMIN: &[u8] = b"admin";

/// What callers must know.
#[derive(Clone, Default)]
pub struct Secrets {
    /// To do anything.
    pub admin: Option<SecretString>,
    /// To read the metrics, which the admin secret allows too.
    pub metrics: Option<SecretString>,
}

/// Checks the admin secret; without one configured every program of this machine is admin.
pub(super) fn check_secret(expected: Option<&SecretString>, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(expected) = expected else { return check_own_machine(headers) };
    let names = "\"x-hasura-admin-secret\"/\"x-hasura-access-key\"";
    let Some(given) = headers.get(SECRET_HEADER).or_else(|| headers.get(DEPRECATED_SECRET_HEADER)) else {
        return Err(ApiError::unauthorized(format!("{names} required, but not found")));
    };
    match is_same(expected, given.as_bytes()) {
        true => Ok(()),
        false => Err(ApiError::unauthorized(format!("invalid {names}"))),
    }
}

/// Checks that the caller may read the metrics: by either secret as a bearer token, which is what Prometheus can send,
/// or by the admin secret as anywhere else. Where no secret is configured every program of this machine may.
pub(super) fn check_scraper(secrets: &Secrets, headers: &HeaderMap) -> Result<(), ApiError> {
    let Secrets { admin, metrics } = secrets;
    if let (Some(_), Ok(())) = (admin, check_secret(admin.as_ref(), headers)) {
        return Ok(());
    }
    let mut expected = [metrics, admin].into_iter().flatten().peekable();
    let token = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().split_at_checked(BEARER.len()));
    let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(BEARER)).map(|(_, token)| token);
    if expected.peek().is_none() {
        return check_own_machine(headers);
    }
    match token.is_some_and(|token| expected.any(|secret| is_same(secret, token))) {
        true => Ok(()),
        false => Err(ApiError::unauthorized("send Authorization: Bearer with the metrics secret".into())),
    }
}

/// Only a loopback address is listened on then, but a browser reaches that as well: no page from elsewhere may call,
/// nor one whose name was made to lead here.
fn check_own_machine(headers: &HeaderMap) -> Result<(), ApiError> {
    let host = headers.get(HOST).map(|host| is_loopback(host.to_str().unwrap_or_default()));
    let origin = headers.get(ORIGIN).map(|origin| {
        let (_, authority) = origin.to_str().unwrap_or_default().split_once("://").unwrap_or_default();
        is_loopback(authority)
    });
    match host != Some(false) && origin != Some(false) {
        true => Ok(()),
        false => Err(ApiError::unauthorized(
            "without an admin secret only programs of this machine may call, by a loopback address or localhost and \
             from no other page; set --admin-secret"
                .into(),
        )),
    }
}

/// Whether a host, with or without its port, is this machine whoever asks.
fn is_loopback(host_and_port: &str) -> bool {
    let Ok(authority) = host_and_port.parse::<Authority>() else { return false };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Hashes are compared, because comparing texts of different lengths would tell the length.
fn is_same(expected: &SecretString, given: &[u8]) -> bool {
    Sha256::digest(expected.expose_secret()).ct_eq(&Sha256::digest(given)).into()
}

/// Checks that the caller did not lower its own role.
pub(super) fn check_role(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.get(ROLE_HEADER) {
        Some(role) if role.as_bytes() != ADMIN => Err(ApiError::wrong_role()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn the_secret_is_asked_for_when_there_is_one() {
        let secret = SecretString::from("s3cret");
        let check = |pairs| check_secret(Some(&secret), &headers(pairs)).map_err(|error| error.text().to_owned());
        assert_eq!(check(&[(SECRET_HEADER, "s3cret")]), Ok(()));
        assert_eq!(check(&[(DEPRECATED_SECRET_HEADER, "s3cret")]), Ok(()));
        let required = "\"x-hasura-admin-secret\"/\"x-hasura-access-key\" required, but not found";
        assert_eq!(check(&[]), Err(required.to_owned()));
        let invalid = "invalid \"x-hasura-admin-secret\"/\"x-hasura-access-key\"";
        for wrong in ["", "s3cre", "s3crets", "S3CRET"] {
            assert_eq!(
                check_secret(Some(&secret), &headers(&[(SECRET_HEADER, wrong)])).expect_err(wrong).text(),
                invalid
            );
        }
        assert!(check_secret(None, &headers(&[(SECRET_HEADER, "anything")])).is_ok());
        let page = [(SECRET_HEADER, "s3cret"), ("host", "hooks.example.com"), ("origin", "https://example.com")];
        assert_eq!(check(&page), Ok(()));
    }

    #[test]
    fn without_a_secret_pages_from_elsewhere_are_refused() {
        let check = |pairs: &[_]| {
            let answers = [check_secret(None, &headers(pairs)), check_scraper(&Secrets::default(), &headers(pairs))];
            assert_eq!(answers[0].is_ok(), answers[1].is_ok());
            answers[0].is_ok()
        };
        for host in ["localhost", "LocalHost:8080", "127.0.0.1:8080", "127.9.9.9", "[::1]:8080", "[::1]"] {
            assert!(check(&[("host", host)]), "{host}");
        }
        for host in ["example.com", "localhost.example.com:8080", "10.0.0.1:8080", "", "[::2]:8080", "127.0.0.1.nip.io"]
        {
            assert!(!check(&[("host", host)]), "{host}");
        }
        assert!(check(&[("host", "localhost:8080"), ("origin", "http://localhost:9695")]));
        for origin in ["https://example.com", "null", "", "http://localhost@example.com", "https://127.0.0.1.nip.io"] {
            assert!(!check(&[("host", "localhost:8080"), ("origin", origin)]), "{origin}");
        }
    }

    #[test]
    fn a_scraper_sends_either_secret_as_a_bearer_token() {
        const TOKEN: &str = "authorization";
        let secrets = |admin: Option<&str>, metrics: Option<&str>| Secrets {
            admin: admin.map(SecretString::from),
            metrics: metrics.map(SecretString::from),
        };
        let check = |secrets: &Secrets, pairs: &[_]| check_scraper(secrets, &headers(pairs)).is_ok();
        let both = secrets(Some("s3cret"), Some("scrape"));
        for sent in [(TOKEN, "Bearer scrape"), (TOKEN, "bearer s3cret"), (SECRET_HEADER, "s3cret")] {
            assert!(check(&both, &[sent]), "{sent:?}");
        }
        for sent in [(TOKEN, "scrape"), (TOKEN, "Bearer scrap"), (TOKEN, "Basic scrape"), (SECRET_HEADER, "scrape")] {
            assert!(!check(&both, &[sent]), "{sent:?}");
        }
        assert!(!check(&both, &[]));
        assert!(check(&secrets(None, None), &[]), "only a loopback address is listened on");
        assert!(check(&secrets(Some("s3cret"), None), &[(TOKEN, "Bearer s3cret")]));
        assert!(!check(&secrets(Some("s3cret"), None), &[]));
        let alone = secrets(None, Some("scrape"));
        assert!(
            check(&alone, &[(TOKEN, "Bearer scrape")]) && !check(&alone, &[]) && !check(&alone, &[(TOKEN, "Bearer ")])
        );
    }

    #[test]
    fn only_admin_may_pass() {
        assert!(check_role(&headers(&[])).is_ok());
        assert!(check_role(&headers(&[(ROLE_HEADER, "admin")])).is_ok());
        for role in ["user", "", "Admin"] {
            let error = check_role(&headers(&[(ROLE_HEADER, role)])).expect_err(role);
            assert_eq!(error.text(), "restricted access : admin only");
        }
    }
}
