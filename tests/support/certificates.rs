//! Certificates of a test, made for it.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
    SignatureAlgorithm,
};
use tempfile::TempDir;

/// An authority and a directory for its files.
pub struct Authority {
    directory: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, in files.
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// The parameters of a certificate for a common name and these alternative names.
fn parameters(common_name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut parameters = CertificateParams::new(names).expect("names");
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters
}

fn authority(common_name: &str, names: &[&str]) -> CertificateParams {
    let mut parameters = parameters(common_name, names);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters
}

impl Authority {
    /// One whose signatures are ECDSA with SHA-256.
    pub fn new(name: &str) -> Authority {
        Authority::signing_with(name, &PKCS_ECDSA_P256_SHA256)
    }

    /// One with a key of this kind.
    pub fn signing_with(name: &str, algorithm: &'static SignatureAlgorithm) -> Authority {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let issuer = CertifiedIssuer::self_signed(authority(name, &[]), key).expect("an authority");
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("root.crt"), issuer.pem()).expect("a file");
        Authority { directory, issuer }
    }

    /// Its own certificate.
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root.crt")
    }

    /// A certificate for a common name and alternative names, with a key of this kind.
    pub fn sign(&self, common_name: &str, names: &[&str], algorithm: &'static SignatureAlgorithm) -> Pair {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let signed = parameters(common_name, names).signed_by(&key, &self.issuer).expect("a certificate");
        self.write(common_name, &signed.pem(), &key)
    }

    /// A certificate that is its own authority, as `openssl req -x509` makes it. It has nothing to do with this one.
    pub fn self_signed(&self, common_name: &str, names: &[&str]) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let certificate = authority(common_name, names).self_signed(&key).expect("a certificate");
        self.write(common_name, &certificate.pem(), &key)
    }

    fn write(&self, name: &str, certificate: &str, key: &KeyPair) -> Pair {
        let file = |extension: &str| self.directory.path().join(format!("{name}.{extension}"));
        let pair = Pair { certificate: file("crt"), key: file("key") };
        std::fs::write(&pair.certificate, certificate).expect("a file");
        std::fs::write(&pair.key, key.serialize_pem()).expect("a file");
        pair
    }
}

/// Copies a file into a server's directory, for the server's user alone.
pub fn install(file: &Path, directory: &Path, name: &str) {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let (to, owner) = (directory.join(name), std::fs::metadata(directory).expect("a directory"));
    std::fs::copy(file, &to).expect("a copy");
    std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    chown(&to, Some(owner.uid()), Some(owner.gid())).expect("an owner");
}
