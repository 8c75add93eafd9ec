//! A real signal in the middle of it.
#![cfg(unix)]

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tests::{
    program::{signal, start},
    wait::within,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::TcpStream,
    process::{Child, ChildStdout, Command},
    sync::Notify,
    task::JoinSet,
    time::Instant,
};
use tower_weir::outcome::Fault;
use tower_weir_testkit::upstream::{ServiceTime, Upstream};

/// The program while it runs.
struct Program {
    child: Child,
    stdout: BufReader<ChildStdout>,
    left: PathBuf,
}

/// What it said in the end.
struct Ended {
    took: Duration,
    drained: String,
    account: String,
    /// Ids that were not delivered, and how sure that is.
    left: HashMap<String, String>,
}

impl Program {
    /// Returns when it listens, with a connection to it.
    async fn start(
        name: &str,
        upstream: &Upstream,
        grace: &str,
    ) -> (Self, SendRequest<Empty<Bytes>>) {
        let left = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_graceful"));
        command
            .args(["--upstream", &upstream.url(), "--grace", grace, "--left"])
            .arg(&left);
        let mut child = start(command);
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let listening = stdout.read_line(&mut line);
        within("the address", listening).await.unwrap();
        let addr = line.trim().strip_prefix("listening on ").unwrap();
        let stream = TcpStream::connect(addr).await.unwrap();
        let (send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let program = Self {
            child,
            stdout,
            left,
        };
        (program, send)
    }

    async fn end(mut self, since: Instant) -> Ended {
        let mut said = String::new();
        let all = self.stdout.read_to_string(&mut said);
        within("the program's end", all).await.unwrap();
        assert!(self.child.wait().await.unwrap().success());
        let took = since.elapsed();
        let left = fs::read_to_string(&self.left).unwrap();
        let [drained, account] = said.lines().collect::<Vec<_>>()[..] else {
            panic!("{said}");
        };
        let entry = |line: &str| {
            let (id, sure) = line.split_once(' ').unwrap();
            (id.to_owned(), sure.to_owned())
        };
        Ended {
            took,
            drained: drained.to_owned(),
            account: account.to_owned(),
            left: left.lines().map(entry).collect(),
        }
    }
}

/// The numbers in a line, in their order.
fn numbers(line: &str) -> Vec<usize> {
    let words = line.split(|c: char| !c.is_ascii_digit() && c != '.');
    words.filter_map(|word| word.parse().ok()).collect()
}

/// Sends records until the server ends, and returns the ids that it accepted.
/// Whatever it does not answer must be what it says it has not seen.
async fn load(
    send: SendRequest<Empty<Bytes>>,
    answered: Arc<(AtomicUsize, Notify)>,
) -> Vec<String> {
    let mut senders = JoinSet::new();
    for sender in 0..100 {
        let (mut send, answered) = (send.clone(), answered.clone());
        senders.spawn(async move {
            let mut accepted = Vec::new();
            for n in 0.. {
                let id = format!("{sender}-{n}");
                let uri = format!("http://graceful.test/records/{id}");
                let request = Request::post(uri).body(Empty::new()).unwrap();
                if send.ready().await.is_err() {
                    break;
                }
                match send.send_request(request).await {
                    Ok(answer) if answer.status() == StatusCode::ACCEPTED => accepted.push(id),
                    Ok(answer) => {
                        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
                        answer.into_body().collect().await.unwrap();
                        break;
                    }
                    Err(error) => {
                        let fault = Fault::of(&error);
                        let unseen = [Fault::GoAway, Fault::NotSent, Fault::RefusedStream];
                        assert!(unseen.contains(&fault), "{fault}: {error:?}");
                        break;
                    }
                }
                answered.0.fetch_add(1, Ordering::Relaxed);
                answered.1.notify_waiters();
            }
            accepted
        });
    }
    senders.join_all().await.into_iter().flatten().collect()
}

/// Returns when so many requests were answered.
async fn reached(answered: &(AtomicUsize, Notify), count: usize) {
    let enough = async {
        loop {
            let mut more = std::pin::pin!(answered.1.notified());
            more.as_mut().enable();
            if answered.0.load(Ordering::Relaxed) >= count {
                return;
            }
            more.await;
        }
    };
    within("answers", enough).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_during_load_loses_nothing() {
    for name in ["TERM", "INT"] {
        let upstream = Upstream::builder().slots(4).start().await.unwrap();
        let (program, send) = Program::start("graceful-load", &upstream, "20").await;
        let answered = Arc::default();
        let load = tokio::spawn(load(send, Arc::clone(&answered)));
        reached(&answered, 200).await;
        let since = Instant::now();
        signal(&program.child, name).await;
        let accepted = load.await.unwrap();
        let ended = program.end(since).await;

        assert!(ended.took < Duration::from_secs(20), "{:?}", ended.took);
        let [given, delivered, unsent, in_doubt] = numbers(&ended.account)[..] else {
            panic!("{}", ended.account);
        };
        assert_eq!(given, delivered + unsent + in_doubt, "{}", ended.account);
        assert_eq!(given, accepted.len());
        assert_eq!(ended.left.len(), unsent + in_doubt);
        // The queue was full, and its records were handed back.
        assert!(unsent > 0 && delivered > 0, "{}", ended.account);
        for id in accepted {
            let stored = upstream.stored(&id) > 0;
            match ended.left.get(&id).map(String::as_str) {
                None => assert!(stored, "{id} is lost"),
                Some("unsent") => assert!(!stored, "{id} was sent"),
                Some(_) => {}
            }
        }
        assert!(ended.drained.contains(" 0 cut,"), "{}", ended.drained);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hangs_is_cut_when_the_grace_is_over() {
    let hour = ServiceTime::constant(Duration::from_secs(3600));
    let upstream = Upstream::builder()
        .service_time(hour)
        .start()
        .await
        .unwrap();
    let (program, send) = Program::start("graceful-hang", &upstream, "1").await;
    let answered = Arc::default();
    let load = tokio::spawn(load(send, Arc::clone(&answered)));
    // Some are on their way, and the queue is full.
    reached(&answered, 64).await;
    let since = Instant::now();
    signal(&program.child, "TERM").await;
    let accepted = load.await.unwrap();
    let ended = program.end(since).await;

    let second = Duration::from_secs(1);
    assert!(
        (second..20 * second).contains(&ended.took),
        "{:?}",
        ended.took
    );
    let [given, delivered, unsent, in_doubt] = numbers(&ended.account)[..] else {
        panic!("{}", ended.account);
    };
    assert_eq!((given, delivered), (accepted.len(), 0));
    assert_eq!(given, unsent + in_doubt);
    assert!(in_doubt > 0, "{}", ended.account);
    for id in accepted {
        assert!(ended.left.contains_key(&id), "{id} is lost");
    }
}
