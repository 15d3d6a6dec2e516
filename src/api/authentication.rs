//! Who calls: the admin secret and the role (reference/hasura.md, 1.1).

use axum::http::HeaderMap;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::hasura::ApiError;

const SECRET_HEADER: &str = "x-hasura-admin-secret";
const DEPRECATED_SECRET_HEADER: &str = "x-hasura-access-key";
const ROLE_HEADER: &str = "x-hasura-role";
const ADMIN: &[u8] = b"admin";

/// Checks the admin secret; without one configured everybody is admin.
pub(super) fn check_secret(expected: Option<&SecretString>, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(expected) = expected else { return Ok(()) };
    let names = "\"x-hasura-admin-secret\"/\"x-hasura-access-key\"";
    let Some(given) = headers.get(SECRET_HEADER).or_else(|| headers.get(DEPRECATED_SECRET_HEADER)) else {
        return Err(ApiError::unauthorized(format!("{names} required, but not found")));
    };
    // Hashes are compared, because comparing texts of different lengths would tell the length.
    let (expected, given) = (Sha256::digest(expected.expose_secret()), Sha256::digest(given.as_bytes()));
    if bool::from(expected.ct_eq(&given)) { Ok(()) } else { Err(ApiError::unauthorized(format!("invalid {names}"))) }
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
