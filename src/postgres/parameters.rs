//! Takes out of a connection string what the driver does not know: files of TLS and passwords, libpq's further modes.

use std::collections::BTreeMap;

use super::Error;

/// libpq's parameters that the driver does not know, or names or counts otherwise.
const OURS: [&str; 7] =
    ["sslmode", "sslrootcert", "sslcert", "sslkey", "passfile", "keepalives_count", "tcp_user_timeout"];

/// A connection string in two parts.
#[derive(Debug)]
pub(super) struct Split {
    /// For the driver's parser.
    pub driver: String,
    /// By name; the last one counts, as in libpq.
    pub ours: BTreeMap<String, String>,
}

/// Splits a URL or a `key=value` string.
pub(super) fn split(text: &str) -> Result<Split, Error> {
    let is_url = ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme));
    if is_url { split_url(text) } else { split_pairs(text) }
}

fn split_url(text: &str) -> Result<Split, Error> {
    // A password may hold a question mark, so the query is looked for behind it.
    let host = text.find('@').unwrap_or(0);
    let Some(query) = text[host..].find('?').map(|index| host + index) else {
        return Ok(Split { driver: text.into(), ours: BTreeMap::new() });
    };
    let (mut ours, mut others) = (BTreeMap::new(), Vec::new());
    for pair in text[query + 1..].split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !OURS.contains(&name) {
            others.push(pair);
            continue;
        }
        let value = percent_encoding::percent_decode_str(value).decode_utf8();
        let value = value.map_err(|_| Error::Settings(format!("{name} is not UTF-8")))?;
        ours.insert(name.to_owned(), value.into_owned());
    }
    let mut driver = text[..query].to_owned();
    if !others.is_empty() {
        driver = format!("{driver}?{}", others.join("&"));
    }
    Ok(Split { driver, ours })
}

fn split_pairs(text: &str) -> Result<Split, Error> {
    let (mut ours, mut driver) = (BTreeMap::new(), String::new());
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or_else(|| {
            Error::Settings("use a postgres:// URL, or key=value pairs with spaces between them".into())
        })?;
        let name = name.trim_end();
        let (value, after) = read_value(after.trim_start())?;
        if OURS.contains(&name) {
            ours.insert(name.to_owned(), value);
        } else {
            let escaped = value.replace('\\', "\\\\").replace('\'', "\\'");
            driver.push_str(&format!("{name}='{escaped}' "));
        }
        rest = after.trim_start();
    }
    Ok(Split { driver, ours })
}

/// A value as libpq quotes it, and what comes after it.
fn read_value(text: &str) -> Result<(String, &str), Error> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut characters = text.char_indices().skip(usize::from(quoted));
    while let Some((index, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &text[index + 1..])),
            blank if !quoted && blank.is_whitespace() => return Ok((value, &text[index..])),
            other => value.push(other),
        }
    }
    match quoted {
        true => Err(Error::Settings("a value's closing quote is missing".into())),
        false => Ok((value, "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, driver: &str, ours: &[(&str, &str)]) {
        let found = split(text).expect("a connection string");
        assert_eq!(found.driver, driver, "{text}");
        let expected = ours.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(found.ours, expected, "{text}");
    }

    #[test]
    fn urls_are_split() {
        check("postgres://db/app", "postgres://db/app", &[]);
        check("postgres://u:p@db/app?sslmode=verify-full", "postgres://u:p@db/app", &[("sslmode", "verify-full")]);
        check(
            "postgresql://u:what?sslmode=x@db?options=-c%20a%3Db&sslrootcert=%2Fca.crt&connect_timeout=3",
            "postgresql://u:what?sslmode=x@db?options=-c%20a%3Db&connect_timeout=3",
            &[("sslrootcert", "/ca.crt")],
        );
    }

    #[test]
    fn pairs_are_split_with_libpqs_quotes() {
        check("host=db  sslmode = require user=me", "host='db' user='me' ", &[("sslmode", "require")]);
        check(
            r"password='it\'s \\ me' passfile='/a b/c' host=x\ y",
            r"password='it\'s \\ me' host='x y' ",
            &[("passfile", "/a b/c")],
        );
        assert!(split("host='db").is_err());
        assert!(split("just words").is_err());
    }
}
