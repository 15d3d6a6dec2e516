//! Every way to connect, for ordinary and replication connections alike, each against a server that requires it.

mod support;

use std::path::Path;

use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA512, SignatureAlgorithm};
use serde_json::json;
use support::certificates::{Authority, Pair, install};
use support::cluster::TestDatabase;
use support::receiver::Receiver;
use support::scene::{DEADLINE, trigger};
use support::walhook::Start;
use walhook::postgres::cluster::{Cluster, Options};
use walhook::postgres::replication::Connection;
use walhook::postgres::{Class, Error, Settings, connect};

/// Who must come how. Logical replication counts as a connection to its database.
const ACCESS: &str = "
local   all  all                  scram-sha-256
hostssl all  by_certificate  all  cert
hostssl all  by_scram        all  scram-sha-256
host    all  by_md5          all  md5
host    all  by_cleartext    all  password
host    all  postgres        all  scram-sha-256
";
const ROLES: &str = "
create role by_certificate login superuser replication;
create role by_scram login superuser replication password 'p a''ss';
create role by_cleartext login superuser replication password 'p a''ss';
set password_encryption = 'md5';
create role by_md5 login superuser replication password 'p a''ss';
";
const PASSWORD: &str = r"'p a\'ss'";

/// A server that knows an authority and has a certificate of it for `localhost`.
struct Secured {
    cluster: Cluster,
    authority: Authority,
    stranger: Authority,
}

impl Secured {
    async fn start() -> Secured {
        let cluster = Cluster::start(Options::default()).await.expect("a cluster");
        let secured = Secured { cluster, authority: Authority::new("ours"), stranger: Authority::new("strangers") };
        secured.execute(ROLES).await;
        std::fs::write(secured.cluster.data_directory().join("pg_hba.conf"), ACCESS).expect("a file");
        install(&secured.authority.root(), &secured.cluster.data_directory(), "root.crt");
        let server = secured.authority.sign("server", &["localhost"], &PKCS_ECDSA_P256_SHA256);
        secured.present(&server).await;
        secured.execute("alter system set ssl_ca_file = 'root.crt'; ").await;
        secured.execute("alter system set ssl = on").await;
        secured.reload().await;
        secured
    }

    /// Gives the server another certificate.
    async fn present(&self, pair: &Pair) {
        install(&pair.certificate, &self.cluster.data_directory(), "server.crt");
        install(&pair.key, &self.cluster.data_directory(), "server.key");
        self.reload().await;
    }

    async fn execute(&self, sql: &str) {
        let session = connect(&self.cluster.settings("postgres"), "test").await.expect("a session");
        for statement in sql.split(';').filter(|statement| !statement.trim().is_empty()) {
            session.batch_execute(statement).await.unwrap_or_else(|error| panic!("{error:?} in {statement}"));
        }
    }

    /// The postmaster reads its files anew before it takes the next connection, but not before it answers.
    async fn reload(&self) {
        let session = connect(&self.cluster.settings("postgres"), "test").await.expect("a session");
        let loaded = "select pg_conf_load_time()::text";
        let before: String = session.query_one(loaded, &[]).await.expect("a time").get(0);
        session.batch_execute("select pg_reload_conf()").await.expect("a reload");
        let check = || async {
            let fresh = connect(&self.cluster.settings("postgres"), "test").await.expect("a session");
            let now: String = fresh.query_one(loaded, &[]).await.expect("a time").get(0);
            if now == before { Err(now) } else { Ok(()) }
        };
        support::wait::eventually("the server to read its files", DEADLINE, check).await;
    }

    /// As `key=value` pairs; `more` comes after what says where the server is.
    fn url(&self, user: &str, more: &str) -> String {
        format!("port={} dbname=postgres user={user} {more}", self.cluster.port())
    }
}

/// Both kinds of connection; whether each is encrypted, or why there is none.
async fn try_both(url: &str) -> [Result<bool, Error>; 2] {
    let encrypted = "select ssl from pg_catalog.pg_stat_ssl where pid = pg_catalog.pg_backend_pid()";
    let settings: Settings = match url.parse() {
        Ok(settings) => settings,
        Err(error) => panic!("{error} in {url}"),
    };
    let ordinary = async {
        let session = connect(&settings, "test").await?;
        Ok(session.query_one(encrypted, &[]).await?.get(0))
    };
    let replication = async {
        let mut connection = Connection::connect(&settings, "test").await?;
        let system = connection.identify().await?;
        assert!(!system.identifier.is_empty() && system.timeline == 1, "{system:?}");
        let rows = connection.query(encrypted).await?;
        Ok(rows[0][0].as_deref() == Some("t"))
    };
    [ordinary.await, replication.await]
}

async fn check_encrypted(url: &str, expected: bool) {
    for result in try_both(url).await {
        assert_eq!(result.unwrap_or_else(|error| panic!("{error} with {url}")), expected, "{url}");
    }
}

async fn check_refused(url: &str, reason: &str) {
    for (index, result) in try_both(url).await.into_iter().enumerate() {
        let Err(error) = result else { panic!("connection {index} was made with {url}") };
        let text = error.to_string();
        assert!(text.contains(reason), "{reason:?} is not in {text:?} with {url}");
        assert!(!text.contains("p a"), "the password is in {text:?}");
        assert_eq!(error.class(), Class::Operator, "{text} with {url}");
    }
}

fn files(root: &Path) -> String {
    format!("sslrootcert='{}'", root.display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_certificate_is_looked_at_as_far_as_the_mode_says() {
    let secured = Secured::start().await;
    let (ours, strangers) = (files(&secured.authority.root()), files(&secured.stranger.root()));
    let named = format!("host=localhost hostaddr=127.0.0.1 password={PASSWORD}");
    let unnamed = format!("host=127.0.0.1 password={PASSWORD}");
    let url = |more: &str| secured.url("by_scram", more);
    check_encrypted(&url(&format!("{named} {ours} sslmode=verify-full")), true).await;
    check_encrypted(&url(&format!("{named} {ours} sslmode=verify-ca")), true).await;
    check_encrypted(&url(&format!("{unnamed} {ours} sslmode=verify-ca")), true).await;
    check_encrypted(&url(&format!("{unnamed} {ours} sslmode=require")), true).await;
    check_encrypted(&url(&format!("{unnamed} sslmode=require")), true).await;
    check_encrypted(&url(&format!("{unnamed} sslmode=prefer")), true).await;
    check_encrypted(&url(&unnamed), true).await;
    check_refused(&url(&format!("{unnamed} {ours} sslmode=verify-full")), "subjectAltName").await;
    check_refused(&url(&format!("{named} {strangers} sslmode=verify-full")), "sslrootcert").await;
    check_refused(&url(&format!("{unnamed} {strangers} sslmode=verify-ca")), "sslrootcert").await;
    // With the root given, `require` looks at it, as in libpq.
    check_refused(&url(&format!("{unnamed} {strangers} sslmode=require")), "sslrootcert").await;
    check_refused(&url(&format!("{unnamed} sslmode=disable")), "28000").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_its_own_authority_is_trusted_by_who_names_it() {
    let secured = Secured::start().await;
    let itself = secured.authority.self_signed("itself", &["localhost"]);
    secured.present(&itself).await;
    let url = |more: &str| secured.url("by_scram", &format!("password={PASSWORD} {more}"));
    let root = files(&itself.certificate);
    check_encrypted(&url(&format!("host=localhost hostaddr=127.0.0.1 {root} sslmode=verify-full")), true).await;
    check_encrypted(&url(&format!("host=127.0.0.1 {root} sslmode=verify-ca")), true).await;
    check_refused(&url(&format!("host=127.0.0.1 {root} sslmode=verify-full")), "subjectAltName").await;
    let another = secured.stranger.self_signed("another", &["localhost"]);
    check_refused(&url(&format!("host=127.0.0.1 {} sslmode=verify-ca", files(&another.certificate))), "TLS").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_is_enough_where_the_server_asks_for_one() {
    let secured = Secured::start().await;
    let root = files(&secured.authority.root());
    let url = |pair: &Pair| {
        let (certificate, key) = (pair.certificate.display(), pair.key.display());
        let more = format!("host=localhost {root} sslmode=verify-full sslcert='{certificate}' sslkey='{key}'");
        secured.url("by_certificate", &more)
    };
    let client = |name: &str| secured.authority.sign(name, &[], &PKCS_ECDSA_P256_SHA256);
    check_encrypted(&url(&client("by_certificate")), true).await;
    check_refused(&url(&client("somebody_else")), "28000").await;
    let unknown = secured.stranger.sign("by_certificate", &[], &PKCS_ECDSA_P256_SHA256);
    check_refused(&url(&unknown), "sslcert").await;
    check_refused(&secured.url("by_certificate", "host=localhost sslmode=require"), "28000").await;
    for (given, problem) in [("sslcert=/nowhere sslkey=/nowhere", "/nowhere"), ("sslcert=/nowhere", "together")] {
        let error = secured.url("by_certificate", &format!("host=localhost {given}")).parse::<Settings>();
        assert!(error.expect_err("no such file").to_string().contains(problem));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scram_is_bound_to_the_servers_certificate_whatever_signed_it() {
    let secured = Secured::start().await;
    let url = |more: &str| secured.url("by_scram", &format!("host=localhost password={PASSWORD} {more}"));
    // The hash is that of the signature, which is the authority's kind and not the key's.
    let kinds: [(&'static SignatureAlgorithm, &'static SignatureAlgorithm); 3] = [
        (&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P256_SHA256),
        (&PKCS_ECDSA_P384_SHA384, &PKCS_RSA_SHA512),
        (&PKCS_RSA_SHA512, &PKCS_ECDSA_P256_SHA256),
    ];
    for (authoritys, servers) in kinds {
        let authority = Authority::signing_with("other", authoritys);
        secured.present(&authority.sign("server", &["localhost"], servers)).await;
        check_encrypted(&url("sslmode=require channel_binding=require"), true).await;
        check_encrypted(&url("sslmode=require channel_binding=disable"), true).await;
    }
    // No hash is prescribed for this one: the login goes unbound, unless binding is required.
    let authority = Authority::signing_with("other", &PKCS_ED25519);
    secured.present(&authority.sign("server", &["localhost"], &PKCS_ECDSA_P256_SHA256)).await;
    check_encrypted(&url("sslmode=require"), true).await;
    check_refused(&url("sslmode=require channel_binding=require"), "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_ways_to_log_in_work_and_are_not_taken_for_bound_ones() {
    let secured = Secured::start().await;
    for user in ["by_md5", "by_cleartext"] {
        let url = |more: &str| secured.url(user, &format!("host=127.0.0.1 {more}"));
        check_encrypted(&url(&format!("password={PASSWORD} sslmode=disable")), false).await;
        check_encrypted(&url(&format!("password={PASSWORD} sslmode=require")), true).await;
        check_refused(&url("password=guess"), "28P01").await;
        check_refused(&url("passfile=/dev/null"), "password").await;
        check_refused(&url(&format!("password={PASSWORD} channel_binding=require")), "binding").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_come_from_files_and_sockets_need_no_network() {
    use std::os::unix::fs::PermissionsExt;
    let secured = Secured::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let (passes, secret) = (directory.path().join("pass"), directory.path().join("secret"));
    let port = secured.cluster.port();
    std::fs::write(&passes, format!("localhost:1:*:*:no\nlocalhost:{port}:postgres:by_scram:p a'ss\n"))
        .expect("a file");
    std::fs::set_permissions(&passes, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    let passfile = format!("host=localhost passfile='{}'", passes.display());
    check_encrypted(&secured.url("by_scram", &passfile), true).await;
    check_refused(&secured.url("by_md5", &passfile), "password").await;

    std::fs::write(&secret, "p a'ss\n").expect("a file");
    let settings: Settings = secured.url("by_scram", "host=localhost").parse().expect("settings");
    let settings = settings.with_password_file(&secret).expect("a readable file");
    connect(&settings, "test").await.expect("a session");
    Connection::connect(&settings, "test").await.expect("a replication connection");
    // It is read anew each time.
    std::fs::write(&secret, "changed").expect("a file");
    assert_eq!(connect(&settings, "test").await.err().expect("refused").sqlstate(), Some("28P01"));

    // Never encrypted, whatever was asked for, as in libpq.
    check_encrypted(&format!("{} sslmode=require", secured.cluster.socket_url("postgres")), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_hosts_the_first_that_answers_is_used() {
    let secured = Secured::start().await;
    let port = secured.cluster.port();
    let dead = walhook::postgres::cluster::free_port().expect("a free port");
    let ports = format!("{dead},{port}");
    let url = |ports: &str| {
        format!("host=localhost,127.0.0.1 port={ports} dbname=postgres user=by_scram password={PASSWORD}")
    };
    check_encrypted(&url(&ports), true).await;
    let error = connect(&url(&format!("{dead},{dead}")).parse().expect("settings"), "test").await;
    let error = error.err().expect("nobody answers");
    assert_eq!(error.class(), Class::Retry);
    assert_eq!(error.to_string().matches(&format!(":{dead}")).count(), 2, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn walhook_serves_where_only_bound_and_verified_connections_are_let_in() {
    let secured = Secured::start().await;
    let database = TestDatabase::create_in(&secured.cluster).await;
    database.execute("create table public.items (id int primary key)").await;
    let root = secured.authority.root();
    let (port, name) = (secured.cluster.port(), database.name());
    let url = format!(
        "postgres://by_scram@localhost:{port}/{name}?sslmode=verify-full&sslrootcert={}&channel_binding=require",
        root.display()
    );
    let secret = root.with_file_name("secret");
    std::fs::write(&secret, "p a'ss\n").expect("a file");
    let (slot, publication, secret) = (database.slot(), database.publication(), secret.display().to_string());
    let start = Start::default().with(&["serve", "--database-url", &url, "--database-password-file", &secret]);
    let walhook = start.with(&["--slot", &slot, "--publication", &publication]).ready().await;
    let receiver = Receiver::start().await;
    let args = trigger("t", "items", &receiver.url("/t"), json!({}));
    let created = walhook.post("/v1/query", &json!({"type": "create_event_trigger", "args": args})).await;
    assert_eq!(created, (200, json!({"message": "success"})), "{}", walhook.log());
    database.execute("insert into public.items values (1)").await;
    receiver.wait_for(1, DEADLINE).await;
    let unencrypted = "select count(*) from pg_stat_ssl s join pg_stat_activity a using (pid)
                       where not s.ssl and a.usename = 'by_scram'";
    let row = database.connect().await.query_one(unencrypted, &[]).await.expect("a count");
    assert_eq!(row.get::<_, i64>(0), 0);
    drop(walhook);
    drop(database);
}
