//! TLS to Postgres, with libpq's modes, for ordinary and replication connections alike.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::Error;

/// What `sslmode` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Never.
    Disable,
    /// Where the server offers it. Nobody is authenticated.
    Prefer,
    /// Always. Nobody is authenticated.
    Require,
    /// Always, with a certificate of a known authority.
    VerifyCa,
    /// And made out to the host's name.
    VerifyFull,
}

/// Paths of certificates; the root may also be `system`.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    pub root: Option<String>,
    pub certificate: Option<String>,
    pub key: Option<String>,
}

/// How TLS is used. Files are read anew for each connection, so that certificates can be renewed while walhook runs.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    pub mode: Mode,
    /// Without asking the server first (`sslnegotiation=direct`).
    pub direct: bool,
    files: Files,
}

impl Tls {
    /// Checks that the parameters fit together and that the files can be used.
    pub(super) fn new(mode: Option<&str>, direct: bool, files: Files) -> Result<Tls, Error> {
        let system = files.root.as_deref() == Some("system");
        let mode = match mode {
            None if system => Mode::VerifyFull,
            None | Some("prefer") => Mode::Prefer,
            Some("disable") => Mode::Disable,
            // As in libpq, for who set the root and took it for granted that it is looked at.
            Some("require") if files.root.is_some() => Mode::VerifyCa,
            Some("require") => Mode::Require,
            Some("verify-ca") => Mode::VerifyCa,
            Some("verify-full") => Mode::VerifyFull,
            Some(_) => {
                let modes = "sslmode must be disable, prefer, require, verify-ca or verify-full";
                return Err(Error::Settings(modes.into()));
            }
        };
        if system && mode != Mode::VerifyFull {
            return Err(Error::Settings("sslrootcert=system needs sslmode=verify-full".into()));
        }
        if direct && matches!(mode, Mode::Disable | Mode::Prefer) {
            return Err(Error::Settings("sslnegotiation=direct needs sslmode=require or stronger".into()));
        }
        let tls = Tls { mode, direct, files };
        if mode != Mode::Disable {
            tls.client()?;
        }
        Ok(tls)
    }

    /// What a handshake needs.
    pub(super) fn client(&self) -> Result<ClientConfig, Error> {
        // Named here and not taken from the process, which may not have installed one.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = match self.mode {
            Mode::VerifyCa | Mode::VerifyFull => Some(self.roots()?),
            Mode::Disable | Mode::Prefer | Mode::Require => None,
        };
        let verifier = Verifier::new(roots, self.mode == Mode::VerifyFull, provider.clone())?;
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| Error::Settings(format!("TLS: {error}")))?;
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match self.client_certificate()? {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| Error::Settings(format!("sslcert and sslkey do not fit together: {error}")))?,
        };
        if self.direct {
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(config)
    }

    fn roots(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        match self.files.root.as_deref() {
            Some(path) if path != "system" => certificates("sslrootcert", path),
            _ => {
                let found = rustls_native_certs::load_native_certs();
                match found.certs.is_empty() {
                    true => Err(Error::Settings(
                        "this system has no certificates of authorities: name yours with sslrootcert".into(),
                    )),
                    false => Ok(found.certs),
                }
            }
        }
    }

    fn client_certificate(&self) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, Error> {
        match (&self.files.certificate, &self.files.key) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => {
                let read = PrivateKeyDer::from_pem_file(Path::new(key)).map_err(|error| {
                    Error::Settings(format!("sslkey {key}: {error}; use an unencrypted key in PEM form"))
                })?;
                Ok(Some((certificates("sslcert", certificate)?, read)))
            }
            _ => Err(Error::Settings("sslcert and sslkey must be given together".into())),
        }
    }
}

fn certificates(parameter: &str, path: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let unusable = |reason: String| Error::Settings(format!("{parameter} {path}: {reason}"));
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(Path::new(path)).map_err(|error| unusable(error.to_string()))?.collect();
    let found = found.map_err(|error| unusable(error.to_string()))?;
    if found.is_empty() {
        return Err(unusable("there is no certificate in PEM form in it".into()));
    }
    Ok(found)
}

/// Looks at the server's certificate as far as the mode asks for.
#[derive(Debug)]
struct Verifier {
    chain: Option<Chain>,
    check_name: bool,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
struct Chain {
    verifier: Arc<WebPkiServerVerifier>,
    roots: Vec<CertificateDer<'static>>,
}

impl Verifier {
    fn new(
        roots: Option<Vec<CertificateDer<'static>>>,
        check_name: bool,
        provider: Arc<CryptoProvider>,
    ) -> Result<Verifier, Error> {
        let Some(roots) = roots else { return Ok(Verifier { chain: None, check_name, provider }) };
        let mut store = RootCertStore::empty();
        let (_, unusable) = store.add_parsable_certificates(roots.iter().cloned());
        let built = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone()).build();
        let verifier = built.map_err(|error| {
            Error::Settings(format!(
                "sslrootcert has no usable certificate of an authority ({unusable} are not): {error}"
            ))
        })?;
        Ok(Verifier { chain: Some(Chain { verifier, roots }), check_name, provider })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        let result = chain.verifier.verify_server_cert(certificate, intermediates, name, ocsp_response, now);
        match result {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.check_name => Ok(ServerCertVerified::assertion()),
            // A self-signed certificate as the Postgres manual makes it is its own authority. Whether it is in time was
            // looked at before this error.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(reason)))
                if chain.roots.iter().any(|root| root == certificate)
                    && matches!(reason.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity)) =>
            {
                if self.check_name {
                    rustls::client::verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
