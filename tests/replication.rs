//! The replication stream by itself: what it tells the server, and that no stall, cut or stop of either side hangs it.

mod support;

use std::time::{Duration, Instant};

use support::cluster::TestDatabase;
use support::scene::DEADLINE;
use support::wait::{eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use walhook::model::Lsn;
use walhook::pgoutput::{Message, decode};
use walhook::postgres::cluster::{Cluster, Options};
use walhook::postgres::replication::{Connection, Frame, Start, Stream};
use walhook::postgres::{Class, Error, Session, Settings};

const NAME: &str = "MyPub \"of\" 'mine'";

/// A database with a table, a publication whose name needs every kind of quote, and a slot.
async fn prepare(database: &TestDatabase) -> (Session, Lsn) {
    let sql = database.connect().await;
    let publication = NAME.replace('"', "\"\"");
    let statements = format!(
        "create table public.items (id int primary key, name text);
         create publication \"{publication}\" for table public.items"
    );
    sql.batch_execute(&statements).await.expect("a table and a publication");
    let create = "select lsn::text from pg_create_logical_replication_slot($1, 'pgoutput')";
    let row = sql.query_one(create, &[&database.slot()]).await.expect("a slot");
    (sql, lsn(row.get(0)))
}

fn lsn(text: &str) -> Lsn {
    let (high, low) = text.split_once('/').expect("a position");
    let number = |text| u64::from_str_radix(text, 16).expect("a number");
    Lsn(number(high) << 32 | number(low))
}

async fn open(settings: &Settings, slot: &str, from: Lsn, sender_timeout: Duration) -> Result<Stream, Error> {
    let connection = Connection::connect(settings, "test stream").await?;
    connection.start(Start { slot, publication: NAME, from, sender_timeout }).await
}

/// Reads to the end of the next transaction; gives that position and how many rows were inserted.
async fn read_transaction(stream: &mut Stream) -> (Lsn, usize) {
    let mut inserted = 0;
    loop {
        let frame = within("a frame", DEADLINE, stream.next()).await.expect("a frame");
        let Frame::Message(bytes) = frame else { continue };
        match decode(bytes).expect("a message") {
            Message::Insert { .. } => inserted += 1,
            Message::Commit { end_lsn } => return (end_lsn, inserted),
            _ => {}
        }
    }
}

async fn confirmed(sql: &Session, slot: &str) -> Lsn {
    let query = "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = $1";
    lsn(sql.query_one(query, &[&slot]).await.expect("a slot").get(0))
}

#[tokio::test]
async fn the_last_acknowledgement_is_sent_with_the_stop_and_the_slot_is_free_at_once() {
    let database = TestDatabase::create().await;
    let (sql, start) = prepare(&database).await;
    let (settings, slot) = (database.settings(), database.slot());
    let mut stream = open(&settings, &slot, start, Duration::ZERO).await.expect("a stream");
    for id in 0..3 {
        sql.batch_execute(&format!("insert into public.items values ({id})")).await.expect("a row");
        let (end, inserted) = read_transaction(&mut stream).await;
        assert_eq!(inserted, 1);
        stream.acknowledge(end);
        within("the farewell", DEADLINE, stream.close()).await;
        assert_eq!(confirmed(&sql, &slot).await, end);
        stream = open(&settings, &slot, end, Duration::ZERO).await.expect("a stream again");
    }
}

#[tokio::test]
async fn a_slot_in_use_and_a_slot_that_is_not_there_are_told_apart() {
    let database = TestDatabase::create().await;
    let (_sql, start) = prepare(&database).await;
    let settings = database.settings();
    let _reader = open(&settings, &database.slot(), start, Duration::ZERO).await.expect("a stream");
    for (slot, code) in [(database.slot(), "55006"), ("nowhere".into(), "42704")] {
        let error = open(&settings, &slot, start, Duration::ZERO).await.err().expect("no stream");
        assert_eq!(error.sqlstate(), Some(code), "{error}");
    }
}

#[tokio::test]
async fn a_terminated_stream_says_so_with_its_code() {
    let database = TestDatabase::create().await;
    let (sql, start) = prepare(&database).await;
    let mut stream = open(&database.settings(), &database.slot(), start, Duration::ZERO).await.expect("a stream");
    let end = "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1";
    sql.query(end, &[&database.slot()]).await.expect("an end");
    let error = loop {
        if let Err(error) = within("the end", DEADLINE, stream.next()).await {
            break error;
        }
    };
    assert_eq!((error.sqlstate(), error.class()), (Some("57P01"), Class::Retry), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn feedback_goes_on_while_the_consumer_is_stalled_with_a_backlog_before_it() {
    const ROWS: usize = 40_000;
    let timeout = Duration::from_secs(2);
    let options = Options { wal_sender_timeout: Some(timeout), ..Options::default() };
    let cluster = Cluster::start(options).await.expect("a cluster");
    let database = TestDatabase::create_in(&cluster).await;
    let (sql, start) = prepare(&database).await;
    // Much more than sockets and buffers hold.
    let fill = format!("insert into public.items select i, repeat('x', 2000) from generate_series(1, {ROWS}) i");
    sql.batch_execute(&fill).await.expect("rows");
    let mut stream = open(&database.settings(), &database.slot(), start, timeout).await.expect("a stream");
    let heard = "select extract(epoch from reply_time - backend_start)::float8 from pg_stat_replication
                 where application_name = 'test stream'";
    let check = || async {
        let row = sql.query_opt(heard, &[]).await.expect("an answer").ok_or("the server ended the stream")?;
        let seconds: Option<f64> = row.get(0);
        if seconds.is_some_and(|seconds| seconds > 3.0 * timeout.as_secs_f64()) { Ok(()) } else { Err("still young") }
    };
    eventually("the stream to outlive the server's timeout three times", DEADLINE, check).await;
    assert_eq!(read_transaction(&mut stream).await.1, ROWS);
    drop(stream);
    drop(database);
}

/// A server of one connection that says what a test wants, for what a real one does only at the worst moment.
struct Fake {
    listener: TcpListener,
}

impl Fake {
    async fn new() -> (Fake, Settings) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let url = format!("postgres://me@127.0.0.1:{port}/db?sslmode=disable");
        (Fake { listener }, url.parse().expect("settings"))
    }

    /// Lets somebody in and starts the stream, whatever is asked for.
    async fn accept(&self) -> TcpStream {
        let (mut socket, _) = self.listener.accept().await.expect("a connection");
        let length = socket.read_u32().await.expect("a startup message");
        let mut startup = vec![0; length as usize - 4];
        socket.read_exact(&mut startup).await.expect("a startup message");
        socket.write_all(&[&message(b'R', &[0; 4])[..], &message(b'Z', b"I")].concat()).await.expect("a login");
        let (tag, _) = read(&mut socket).await.expect("a command");
        assert_eq!(tag, b'Q');
        socket.write_all(&message(b'W', &[0, 0, 0])).await.expect("a start");
        socket
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 4).to_be_bytes();
    [&[tag][..], &length, body].concat()
}

fn keepalive(position: u64, answer: bool) -> Vec<u8> {
    message(b'd', &[&b"k"[..], &position.to_be_bytes(), &[0; 8], &[u8::from(answer)]].concat())
}

async fn read(socket: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let tag = socket.read_u8().await?;
    let mut body = vec![0; socket.read_u32().await? as usize - 4];
    socket.read_exact(&mut body).await?;
    Ok((tag, body))
}

/// A status update.
#[derive(Debug)]
struct Status {
    written: u64,
    flushed: u64,
    asks: bool,
}

async fn status(socket: &mut TcpStream) -> Status {
    let (tag, body) = within("a status update", DEADLINE, read(socket)).await.expect("a status update");
    assert_eq!((tag, body[0], body.len()), (b'd', b'r', 34));
    let number = |at: usize| u64::from_be_bytes(body[at..at + 8].try_into().expect("eight bytes"));
    assert_eq!(number(9), number(17), "flushed and applied");
    Status { written: number(1), flushed: number(9), asks: body[33] == 1 }
}

async fn open_fake(sender_timeout: Duration) -> (TcpStream, Stream) {
    let (fake, settings) = Fake::new().await;
    let (socket, stream) = tokio::join!(fake.accept(), open(&settings, "slot", Lsn(1000), sender_timeout));
    (socket, stream.expect("a stream"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn feedback_goes_on_in_the_middle_of_a_message_and_asks_for_an_answer_and_a_stop_is_a_stop() {
    let (mut socket, mut stream) = open_fake(Duration::from_secs(1)).await;
    let large = message(b'd', &[b'w'; 1 << 20]);
    socket.write_all(&[&keepalive(2000, false)[..], &large[..100]].concat()).await.expect("room");
    assert_eq!(stream.next().await.expect("a frame"), Frame::Position(Lsn(2000)));
    let asking = async {
        loop {
            let status = status(&mut socket).await;
            assert_eq!(status.flushed, 0, "nothing was acknowledged");
            if status.asks {
                return status;
            }
        }
    };
    let asked = tokio::select! {
        status = asking => status,
        frame = stream.next() => panic!("a frame out of nothing: {frame:?}"),
    };
    assert_eq!(asked.written, 2000);
    // The rest still makes a message: nothing that was read is lost by all the waiting that was given up.
    socket.write_all(&large[100..]).await.expect("room");
    let Frame::Message(bytes) = stream.next().await.expect("a frame") else { panic!("not a message") };
    assert_eq!(bytes.len(), (1 << 20) - 25);
    socket.write_all(&large[..100]).await.expect("room");
    within("the stop", DEADLINE, stream.close()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_answers_no_more_is_given_up() {
    let (mut socket, mut stream) = open_fake(Duration::from_secs(1)).await;
    socket.write_all(&message(b'd', &[b'w'; 500])[..100]).await.expect("room");
    let error = within("the end", DEADLINE, stream.next()).await.expect_err("nothing comes");
    assert!(matches!(error, Error::Ended(_)) && error.class() == Class::Retry, "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_acknowledged_that_did_not_come_in_and_endless_pings_are_answered_slowly() {
    let (mut socket, mut stream) = open_fake(Duration::ZERO).await;
    stream.acknowledge(Lsn(u64::MAX));
    socket.write_all(&keepalive(3000, true)).await.expect("room");
    assert_eq!(stream.next().await.expect("a frame"), Frame::Position(Lsn(3000)));
    // As a server does that shuts down: a ping for each answer.
    let pinging = async {
        let (start, mut answers) = (Instant::now(), 0_u32);
        while answers < 15 {
            let status = status(&mut socket).await;
            assert!(status.flushed <= 3000 && status.flushed <= status.written, "{status:?}");
            answers += 1;
            socket.write_all(&keepalive(3000, true)).await.expect("room");
        }
        (start.elapsed(), answers)
    };
    let reading = async {
        loop {
            assert_eq!(stream.next().await.expect("a frame"), Frame::Position(Lsn(3000)));
        }
    };
    let (elapsed, answers) = tokio::select! {
        result = pinging => result,
        never = reading => never,
    };
    // A machine that is slow makes it longer, nothing makes it shorter.
    assert!(elapsed >= Duration::from_millis(100) * (answers - 3), "{answers} answers in {elapsed:?}");
}
