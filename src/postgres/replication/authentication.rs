//! The login of a replication connection.

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ScramSha256};
use postgres_protocol::message::frontend;
use tokio_postgres::Config;
use tokio_postgres::config::ChannelBinding;

use super::{Connection, Error, ServerError, unexpected};
use crate::postgres::connect::has_transaction_timeout;
use crate::postgres::settings::Target;

/// What the server asks for in an authentication message.
enum Request {
    Done,
    Cleartext,
    Md5([u8; 4]),
    Sasl { plain: bool, plus: bool },
    SaslContinue(Vec<u8>),
    SaslFinal(Vec<u8>),
    Unknown(u32),
}

/// What the server says of itself at the login.
#[derive(Default)]
pub(super) struct Greeting {
    pub(super) is_standby: bool,
    /// The database keeps bytes as they come, whatever characters they are.
    pub(super) is_without_encoding: bool,
    pub(super) has_transaction_timeout: bool,
}

impl Connection {
    /// From the startup message to the first prompt.
    pub(super) async fn log_in(
        &mut self,
        config: &Config,
        target: &Target,
        end_point: Option<Vec<u8>>,
    ) -> Result<Greeting, Error> {
        let parameters = [
            ("user", config.get_user()),
            ("database", config.get_dbname()),
            ("replication", Some("database")),
            ("application_name", config.get_application_name()),
            ("options", config.get_options()),
            ("client_encoding", Some("UTF8")),
        ];
        let parameters = parameters.into_iter().filter_map(|(name, value)| Some((name, value?)));
        self.send(|out| frontend::startup_message(parameters, out)).await?;
        let login = Login { config, address: target.to_string(), end_point };
        self.authenticate(&login).await?;
        self.read_parameters().await
    }

    async fn authenticate(&mut self, login: &Login<'_>) -> Result<(), Error> {
        match self.request().await? {
            Request::Done => return login.check_binding(false),
            Request::Cleartext => {
                login.check_binding(false)?;
                let password = login.password()?;
                self.send(|out| frontend::password_message(password, out)).await?;
            }
            Request::Md5(salt) => {
                login.check_binding(false)?;
                let user = login.config.get_user().unwrap_or_default();
                let hash = md5_hash(user.as_bytes(), login.password()?, salt);
                self.send(|out| frontend::password_message(hash.as_bytes(), out)).await?;
            }
            Request::Sasl { plain, plus } => self.authenticate_by_scram(login, plain, plus).await?,
            Request::SaslContinue(_) | Request::SaslFinal(_) => return Err(unexpected(b'R', "the startup")),
            Request::Unknown(kind) => {
                let reason =
                    format!("it asks for method {kind}; use scram-sha-256, md5, password or cert in pg_hba.conf");
                return Err(login.refused(reason));
            }
        }
        match self.request().await? {
            Request::Done => Ok(()),
            _ => Err(unexpected(b'R', "the password")),
        }
    }

    async fn authenticate_by_scram(&mut self, login: &Login<'_>, plain: bool, plus: bool) -> Result<(), Error> {
        let wanted = login.config.get_channel_binding() != ChannelBinding::Disable;
        let end_point = login.end_point.clone().filter(|_| wanted);
        let (mechanism, binding) = match (plus, end_point) {
            (true, Some(hash)) => (sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash)),
            // Says that we could have bound: a server that could as well knows then that somebody stands between.
            (false, Some(_)) => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
            (_, None) => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
        };
        login.check_binding(mechanism == sasl::SCRAM_SHA_256_PLUS)?;
        if mechanism == sasl::SCRAM_SHA_256 && !plain {
            return Err(login.refused("it offers no SCRAM-SHA-256".into()));
        }
        let mut scram = ScramSha256::new(login.password()?, binding);
        self.send(|out| frontend::sasl_initial_response(mechanism, scram.message(), out)).await?;
        let refused = |error: std::io::Error| login.refused(error.to_string());
        let Request::SaslContinue(challenge) = self.request().await? else {
            return Err(unexpected(b'R', "the start of SCRAM"));
        };
        scram.update(&challenge).map_err(refused)?;
        self.send(|out| frontend::sasl_response(scram.message(), out)).await?;
        let Request::SaslFinal(signature) = self.request().await? else {
            return Err(unexpected(b'R', "the answer of SCRAM"));
        };
        scram.finish(&signature).map_err(refused)
    }

    /// The next authentication message.
    async fn request(&mut self) -> Result<Request, Error> {
        loop {
            let (tag, body) = self.incoming.next().await?;
            match tag {
                b'R' => return read_request(body).ok_or_else(|| unexpected(tag, "the startup")),
                b'E' => return Err(Error::Server(ServerError::read(body))),
                // Notices, and protocol options that the server does not know.
                b'N' | b'v' => {}
                other => return Err(unexpected(other, "the startup")),
            }
        }
    }

    /// Reads on to the first prompt.
    async fn read_parameters(&mut self) -> Result<Greeting, Error> {
        let mut greeting = Greeting::default();
        loop {
            let (tag, body) = self.incoming.next().await?;
            match tag {
                b'S' => {
                    greeting.is_standby |= body == b"in_hot_standby\0on\0";
                    greeting.is_without_encoding |= body == b"server_encoding\0SQL_ASCII\0";
                    let version = body.strip_prefix(b"server_version\0").and_then(|text| text.utf8_chunks().next());
                    greeting.has_transaction_timeout |=
                        version.is_some_and(|text| has_transaction_timeout(text.valid()));
                }
                b'K' | b'N' => {}
                b'Z' => return Ok(greeting),
                b'E' => return Err(Error::Server(ServerError::read(body))),
                other => return Err(unexpected(other, "the login")),
            }
        }
    }
}

struct Login<'a> {
    config: &'a Config,
    address: String,
    end_point: Option<Vec<u8>>,
}

impl Login<'_> {
    fn refused(&self, reason: String) -> Error {
        Error::Authentication { address: self.address.clone(), reason }
    }

    fn password(&self) -> Result<&[u8], Error> {
        self.config.get_password().ok_or_else(|| self.refused("it asks for a password and none is given".into()))
    }

    fn check_binding(&self, bound: bool) -> Result<(), Error> {
        if bound || self.config.get_channel_binding() != ChannelBinding::Require {
            return Ok(());
        }
        Err(self.refused("channel_binding=require, but the server did not bind the login to the TLS connection".into()))
    }
}

fn read_request(body: &[u8]) -> Option<Request> {
    let (kind, rest) = body.split_first_chunk()?;
    Some(match u32::from_be_bytes(*kind) {
        0 => Request::Done,
        3 => Request::Cleartext,
        5 => Request::Md5(rest.try_into().ok()?),
        10 => {
            let offers = |mechanism: &str| rest.split(|byte| *byte == 0).any(|name| name == mechanism.as_bytes());
            Request::Sasl { plain: offers(sasl::SCRAM_SHA_256), plus: offers(sasl::SCRAM_SHA_256_PLUS) }
        }
        11 => Request::SaslContinue(rest.to_vec()),
        12 => Request::SaslFinal(rest.to_vec()),
        other => Request::Unknown(other),
    })
}
