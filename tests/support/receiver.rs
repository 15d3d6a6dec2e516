//! A scripted HTTP receiver on real sockets. It records every request and answers each path as told, also wrongly:
//! which is why it speaks HTTP itself instead of through a library.

use std::collections::HashMap;
use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// One request, whole.
#[derive(Clone)]
pub struct Request {
    /// Counts all requests of the receiver in the order in which their last byte came in.
    pub number: usize,
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub arrived_at: SystemTime,
    /// Counts connections, to see which requests shared one.
    pub connection: usize,
    /// The status that it is answered with; `None` where it gets no whole answer.
    pub answered: Option<u16>,
}

impl Debug for Request {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Request { number, method, path, connection, .. } = self;
        let body = String::from_utf8_lossy(&self.body);
        write!(out, "#{number} on connection {connection}: {method} {path} {:?} {body:.1000}", self.headers)
    }
}

impl Request {
    /// The first header of this name, given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; null where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// What is sent back.
#[derive(Clone, Debug)]
enum Reply {
    Http { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    Raw(Vec<u8>),
    Close,
    Hang,
}

/// One answer, and how long it takes.
#[derive(Clone, Debug)]
pub struct Answer {
    reply: Reply,
    delay: Duration,
}

impl Answer {
    fn of(reply: Reply) -> Answer {
        Answer { reply, delay: Duration::ZERO }
    }

    /// A status without a body.
    pub fn status(status: u16) -> Answer {
        Answer::of(Reply::Http { status, headers: Vec::new(), body: Vec::new() })
    }

    /// The connection is closed without an answer.
    pub fn close() -> Answer {
        Answer::of(Reply::Close)
    }

    /// No answer, ever; the connection stays open.
    pub fn hang() -> Answer {
        Answer::of(Reply::Hang)
    }

    /// Bytes that are no HTTP, then the connection is closed.
    pub fn garbage() -> Answer {
        Answer::of(Reply::Raw(b"\x16\x03 this is not HTTP\r\n\r\n".to_vec()))
    }

    /// An answer that breaks off in the middle of its body.
    pub fn broken_off() -> Answer {
        Answer::of(Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf".to_vec()))
    }

    /// 200 with a body of this many MiB.
    pub fn mebibytes(count: usize) -> Answer {
        Answer::status(200).body(&"x".repeat(count << 20))
    }

    /// With a body.
    pub fn body(mut self, text: &str) -> Answer {
        if let Reply::Http { body, .. } = &mut self.reply {
            *body = text.as_bytes().to_vec();
        }
        self
    }

    /// With one more header.
    pub fn header(mut self, name: &str, value: &str) -> Answer {
        if let Reply::Http { headers, .. } = &mut self.reply {
            headers.push((name.into(), value.into()));
        }
        self
    }

    fn status_code(&self) -> Option<u16> {
        if let Reply::Http { status, .. } = self.reply { Some(status) } else { None }
    }

    /// With `Retry-After`: seconds or an HTTP date.
    pub fn retry_after(self, value: &str) -> Answer {
        self.header("Retry-After", value)
    }

    /// Sent only after a while.
    pub fn after(mut self, delay: Duration) -> Answer {
        self.delay = delay;
        self
    }
}

impl Default for Answer {
    fn default() -> Answer {
        Answer::status(204)
    }
}

/// What a path answers, request by request.
#[derive(Clone, Debug, Default)]
pub struct Script {
    first: Vec<Answer>,
    then: Answer,
}

impl Script {
    /// The same answer to all.
    pub fn always(answer: Answer) -> Script {
        Script { first: Vec::new(), then: answer }
    }

    /// This answer to the first `count`, then 204; see [`Script::then`].
    pub fn first(count: usize, answer: Answer) -> Script {
        Script { first: vec![answer; count], then: Answer::default() }
    }

    /// These answers, one after the other, then 204.
    pub fn each(first: Vec<Answer>) -> Script {
        Script { first, then: Answer::default() }
    }

    /// The answer to all that come after the first.
    pub fn then(mut self, answer: Answer) -> Script {
        self.then = answer;
        self
    }

    fn answer(&self, index: usize) -> Answer {
        self.first.get(index).unwrap_or(&self.then).clone()
    }
}

type Judge = Box<dyn FnMut(&Request) -> Answer + Send>;

#[derive(Default)]
struct State {
    requests: Vec<Request>,
    scripts: HashMap<String, (Script, usize)>,
    judges: HashMap<String, Judge>,
}

/// Listens until it is dropped; then every connection breaks.
pub struct Receiver {
    port: u16,
    state: Arc<Mutex<State>>,
    count: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// On a free port of 127.0.0.1.
    pub async fn start() -> Receiver {
        Receiver::on_port(0).await
    }

    /// On a given port, such as that of a receiver that was dropped.
    pub async fn on_port(port: u16) -> Receiver {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("a port to listen on");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(Mutex::new(State::default()));
        let (counter, count) = watch::channel(0);
        let task = tokio::spawn(accept(listener, Inbox { state: state.clone(), counter: Arc::new(counter) }));
        Receiver { port, state, count, task }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// For a trigger's `webhook`.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Says what a path answers from now on; without a script it answers 204.
    pub fn on(&self, path: &str, script: Script) {
        self.state.lock().expect("the state").scripts.insert(path.into(), (script, 0));
    }

    /// Lets a function say what each request of a path gets; it sees them one by one, in order of arrival.
    pub fn judge(&self, path: &str, judge: impl FnMut(&Request) -> Answer + Send + 'static) {
        self.state.lock().expect("the state").judges.insert(path.into(), Box::new(judge));
    }

    /// What came in so far on a path, in order of arrival.
    pub fn requests(&self, path: &str) -> Vec<Request> {
        self.all().into_iter().filter(|request| request.path == path).collect()
    }

    /// What came in so far.
    pub fn all(&self) -> Vec<Request> {
        self.state.lock().expect("the state").requests.clone()
    }

    /// How many came in so far.
    pub fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// Waits until `count` requests came in, on all paths together; gives all.
    pub async fn wait_for(&self, count: usize, deadline: Duration) -> Vec<Request> {
        let what = format!("{count} requests");
        self.wait_by_count(&what, deadline, |now| now >= count).await;
        self.all()
    }

    /// Waits until the requests satisfy a condition. It is asked after each request, so it should be cheap.
    pub async fn wait_until(&self, deadline: Duration, mut condition: impl FnMut(&[Request]) -> bool) -> Vec<Request> {
        let state = self.state.clone();
        let met = move |_| condition(&state.lock().expect("the state").requests);
        self.wait_by_count("the condition", deadline, met).await;
        self.all()
    }

    async fn wait_by_count(&self, what: &str, deadline: Duration, met: impl FnMut(usize) -> bool) {
        let (mut count, mut met) = (self.count.clone(), met);
        let waiting = count.wait_for(|now| met(*now));
        if tokio::time::timeout(deadline, waiting).await.is_err() {
            panic!("not within {deadline:?}: {what}; {}", self.describe());
        }
    }

    /// The last requests, for a failure's text.
    fn describe(&self) -> String {
        let all = self.all();
        let last: Vec<String> = all.iter().skip(all.len().saturating_sub(10)).map(|one| format!("{one:?}")).collect();
        format!("{} came, the last of them:\n{}", all.len(), last.join("\n"))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Inbox {
    state: Arc<Mutex<State>>,
    counter: Arc<watch::Sender<usize>>,
}

impl Inbox {
    /// Records a request and says what it gets.
    fn take(&self, mut request: Request) -> Answer {
        let answer;
        let count;
        {
            let mut state = self.state.lock().expect("the state");
            request.number = state.requests.len();
            answer = if let Some(judge) = state.judges.get_mut(&request.path) {
                judge(&request)
            } else {
                let (script, used) = state.scripts.entry(request.path.clone()).or_default();
                *used += 1;
                script.answer(*used - 1)
            };
            request.answered = answer.status_code();
            state.requests.push(request);
            count = state.requests.len();
        }
        // Two connections may come here in the other order than they were counted.
        self.counter.send_modify(|known| *known = count.max(*known));
        answer
    }
}

async fn accept(listener: TcpListener, inbox: Inbox) {
    // Holds the connections, so that they end with the receiver.
    let (mut connections, mut number) = (JoinSet::new(), 0);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                number += 1;
                connections.spawn(converse(stream, inbox.clone(), number));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Requests and answers in turn, until one side is done.
async fn converse(stream: TcpStream, inbox: Inbox, connection: usize) {
    drop(stream.set_nodelay(true));
    let mut stream = BufReader::new(stream);
    while let Ok(Some(request)) = read(&mut stream, connection).await {
        let answer = inbox.take(request);
        // The timer rounds up to a millisecond, also a wait of nothing.
        if !answer.delay.is_zero() {
            tokio::time::sleep(answer.delay).await;
        }
        let bytes = match answer.reply {
            Reply::Http { status, headers, body } => render(status, &headers, &body),
            Reply::Raw(bytes) => {
                drop(stream.write_all(&bytes).await);
                return;
            }
            Reply::Close => return,
            Reply::Hang => return std::future::pending().await,
        };
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

fn render(status: u16, headers: &[(String, String)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if status != 204 {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

/// One request, or `None` where the other side closed between two.
async fn read(stream: &mut BufReader<TcpStream>, connection: usize) -> std::io::Result<Option<Request>> {
    let line = read_line(stream).await?;
    let mut words = line.split(' ');
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let mut headers = Vec::new();
    loop {
        let line = read_line(stream).await?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.trim().to_lowercase(), value.trim().to_owned()));
    }
    let find = |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let body = match (find("content-length"), find("transfer-encoding")) {
        (Some(length), _) => {
            let length = length.parse().map_err(std::io::Error::other)?;
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await?;
            body
        }
        (None, Some(_)) => read_chunks(stream).await?,
        (None, None) => Vec::new(),
    };
    let (method, path, arrived_at) = (method.to_owned(), path.to_owned(), SystemTime::now());
    Ok(Some(Request { number: 0, method, path, headers, body, arrived_at, connection, answered: None }))
}

async fn read_chunks(stream: &mut BufReader<TcpStream>) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(stream).await?;
        let length = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
        let start = body.len();
        body.resize(start + length, 0);
        stream.read_exact(&mut body[start..]).await?;
        read_line(stream).await?;
        if length == 0 {
            return Ok(body);
        }
    }
}

async fn read_line(stream: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
