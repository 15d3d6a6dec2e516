//! `{{NAME}}` placeholders and `*_from_env`, resolved against an environment.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{HeaderValue, Webhook};

/// Environment variables starting so hold the server's own secrets: a trigger may not send them to a webhook.
pub const RESERVED_PREFIXES: [&str; 2] = ["HASURA_GRAPHQL_", "WALHOOK_"];

type Lookup = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Where the values of placeholders come from. Cloning is cheap.
#[derive(Clone)]
pub struct Environment {
    lookup: Arc<Lookup>,
}

impl Environment {
    /// The variables of this process.
    pub fn process() -> Self {
        // A variable that is not UTF-8 cannot go into a URL or a header, so it counts as not set.
        Environment { lookup: Arc::new(|name| std::env::var(name).ok()) }
    }

    /// Exactly these variables; for tests.
    pub fn of(variables: &[(&str, &str)]) -> Self {
        let variables: BTreeMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Environment { lookup: Arc::new(move |name| variables.get(name).cloned()) }
    }

    /// The URL as it is to be called.
    ///
    /// # Errors
    /// Every variant of [`TemplateError`].
    pub fn resolve_webhook(&self, webhook: &Webhook) -> Result<String, TemplateError> {
        match webhook {
            Webhook::Url(text) => resolve_template(text, &*self.lookup),
            Webhook::FromEnv(name) => resolve_variable(name, Place::WebhookFromEnv, &*self.lookup),
        }
    }

    /// A header's value as it is to be sent.
    ///
    /// # Errors
    /// Every variant of [`TemplateError`].
    pub fn resolve_header(&self, value: &HeaderValue) -> Result<String, TemplateError> {
        match value {
            HeaderValue::Literal(text) => resolve_template(text, &*self.lookup),
            HeaderValue::FromEnv(name) => resolve_variable(name, Place::ValueFromEnv, &*self.lookup),
        }
    }
}

/// Prints no variable: they may be secret.
impl fmt::Debug for Environment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Environment")
    }
}

/// Why a placeholder has no value. The messages are Hasura's where it has one (reference/hasura.md, 1.3 and 1.9).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `{{` without `}}`, or something else than a variable's name between them.
    #[error("Parsing URL template failed: {0}")]
    Syntax(String),
    /// The variable may hold a secret of the server.
    #[error("env variables starting with \"{prefix}\" are not allowed in {place}: {name}")]
    Reserved {
        /// One of [`RESERVED_PREFIXES`].
        prefix: &'static str,
        /// Where it was named.
        place: Place,
        /// The variable.
        name: String,
    },
    /// `webhook_from_env` or `value_from_env` names a variable that is not set.
    #[error("environment variable '{0}' not set")]
    NotSet(String),
    /// Placeholders name variables that are not set.
    #[error("Value for environment variables not found: {}", .0.join(", "))]
    NotFound(Vec<String>),
}

/// Where a variable was named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The key `webhook_from_env`.
    WebhookFromEnv,
    /// The key `value_from_env` of a header.
    ValueFromEnv,
    /// A `{{NAME}}` placeholder.
    Template,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Place::WebhookFromEnv => "webhook_from_env",
            Place::ValueFromEnv => "value_from_env",
            Place::Template => "templates",
        })
    }
}

/// Refuses a variable that may hold a secret of the server.
///
/// # Errors
/// [`TemplateError::Reserved`].
pub fn check_variable(name: &str, place: Place) -> Result<(), TemplateError> {
    match RESERVED_PREFIXES.into_iter().find(|prefix| name.starts_with(prefix)) {
        Some(prefix) => Err(TemplateError::Reserved { prefix, place, name: name.to_owned() }),
        None => Ok(()),
    }
}

/// Checks a template without looking any variable up.
///
/// # Errors
/// [`TemplateError::Syntax`] and [`TemplateError::Reserved`].
pub fn check_template(text: &str) -> Result<(), TemplateError> {
    parse(text)?.into_iter().try_for_each(|piece| match piece {
        Piece::Text(_) => Ok(()),
        Piece::Variable(name) => check_variable(name, Place::Template),
    })
}

/// The text with each `{{NAME}}` replaced by what `lookup` gives; all missing variables are reported together.
///
/// # Errors
/// [`TemplateError::Syntax`], [`TemplateError::Reserved`] and [`TemplateError::NotFound`].
pub fn resolve_template(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, TemplateError> {
    let mut resolved = String::with_capacity(text.len());
    let mut missing = Vec::new();
    for piece in parse(text)? {
        match piece {
            Piece::Text(text) => resolved.push_str(text),
            Piece::Variable(name) => {
                check_variable(name, Place::Template)?;
                match lookup_variable(name, lookup) {
                    Some(value) => resolved.push_str(&value),
                    None => missing.push(name.to_owned()),
                }
            }
        }
    }
    if missing.is_empty() { Ok(resolved) } else { Err(TemplateError::NotFound(missing)) }
}

/// The whole value of one variable.
///
/// # Errors
/// [`TemplateError::Reserved`] and [`TemplateError::NotSet`].
pub fn resolve_variable(
    name: &str,
    place: Place,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, TemplateError> {
    check_variable(name, place)?;
    lookup_variable(name, lookup).ok_or_else(|| TemplateError::NotSet(name.to_owned()))
}

/// `std::env` has no answer for names no variable can have, so they are not asked for.
fn lookup_variable(name: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    if name.is_empty() || name.contains(['=', '\0']) { None } else { lookup(name) }
}

enum Piece<'a> {
    Text(&'a str),
    Variable(&'a str),
}

fn parse(text: &str) -> Result<Vec<Piece<'_>>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after
            .split_once("}}")
            .ok_or_else(|| TemplateError::Syntax("{{ is not followed by }}; write {{NAME}}".into()))?;
        let name = name.trim();
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(TemplateError::Syntax(
                "between {{ and }} stands no environment variable's name (letters, digits, underscores)".into(),
            ));
        }
        pieces.push(Piece::Text(before));
        pieces.push(Piece::Variable(name));
        rest = after;
    }
    pieces.push(Piece::Text(rest));
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        Environment::of(&[("BASE", "http://receiver"), ("PORT", "8080"), ("WALHOOK_ADMIN_SECRET", "hush")])
    }

    #[test]
    fn templates_resolve() {
        for (text, expected) in [
            ("http://plain/", "http://plain/"),
            ("", ""),
            ("{{BASE}}:{{PORT}}/hook", "http://receiver:8080/hook"),
            ("{{ BASE }}", "http://receiver"),
            ("{BASE}}", "{BASE}}"),
            ("{{BASE}}{{BASE}}", "http://receiverhttp://receiver"),
        ] {
            let resolved = environment().resolve_webhook(&Webhook::Url(text.into()));
            assert_eq!(resolved.as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn templates_that_cannot_be_resolved_say_why() {
        for (text, expected) in [
            ("{{A}}/{{B}}", "Value for environment variables not found: A, B"),
            ("{{BASE", "Parsing URL template failed: {{ is not followed by }}; write {{NAME}}"),
            (
                "{{WALHOOK_ADMIN_SECRET}}",
                "env variables starting with \"WALHOOK_\" are not allowed in templates: WALHOOK_ADMIN_SECRET",
            ),
            (
                "{{HASURA_GRAPHQL_X}}",
                "env variables starting with \"HASURA_GRAPHQL_\" are not allowed in templates: HASURA_GRAPHQL_X",
            ),
        ] {
            let error = environment().resolve_webhook(&Webhook::Url(text.into())).expect_err(text);
            assert_eq!(error.to_string(), expected);
        }
        for text in ["{{}}", "{{A B}}", "{{a{{b}}"] {
            assert!(matches!(check_template(text), Err(TemplateError::Syntax(_))), "{text}");
        }
    }

    #[test]
    fn whole_variables_resolve() {
        let header = |name: &str| environment().resolve_header(&HeaderValue::FromEnv(name.into()));
        assert_eq!(header("PORT").as_deref(), Ok("8080"));
        assert_eq!(header("NOPE").expect_err("unset").to_string(), "environment variable 'NOPE' not set");
        assert_eq!(header("A=B\0").expect_err("no name"), TemplateError::NotSet("A=B\0".into()));
        assert_eq!(
            header("WALHOOK_ADMIN_SECRET").expect_err("reserved").to_string(),
            "env variables starting with \"WALHOOK_\" are not allowed in value_from_env: WALHOOK_ADMIN_SECRET"
        );
        let webhook = environment().resolve_webhook(&Webhook::FromEnv("HASURA_GRAPHQL_ADMIN_SECRET".into()));
        assert_eq!(
            webhook.expect_err("reserved").to_string(),
            "env variables starting with \"HASURA_GRAPHQL_\" are not allowed in webhook_from_env: \
             HASURA_GRAPHQL_ADMIN_SECRET"
        );
    }
}
