//! Servers in processes of their own, in turns so short that a machine whose speed
//! drifts treats all of them alike.

use std::{
    io::{self, Write},
    str,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    outside::{Place, Process},
    served::{CONNECTIONS, Variant},
};
use crate::{
    measure::{Effort, Spread, single_thread},
    report::{Line, Report},
};

/// How long a server has its turn.
const TURN: Duration = Duration::from_millis(25);

/// How many turns each has before its process ends: two processes of one program are
/// not equally fast, whatever they do.
const TURNS: usize = 150;

/// The first are to warm up.
const WARM: usize = 5;

/// A server and its connections, each of which sends its next request when its last
/// has been answered, while it is their turn.
struct Loaded {
    process: Process,
    until: watch::Sender<Option<Instant>>,
    answered: mpsc::Receiver<Result<u64, String>>,
}

impl Loaded {
    async fn new(variant: Variant, place: Place) -> io::Result<Self> {
        let process = Process::new(variant, place)?;
        let body = place.handler.body();
        let request = format!(
            "POST / HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            process.address(),
            body.len(),
        );
        let (until, turns) = watch::channel(None);
        let (tell, answered) = mpsc::channel(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(process.address()).await?;
            stream.set_nodelay(true)?;
            let (request, turns, tell) = (request.clone(), turns.clone(), tell.clone());
            tokio::spawn(async move { send(stream, request, turns, tell).await });
        }
        Ok(Self {
            process,
            until,
            answered,
        })
    }

    /// How many requests a second it answers in one turn.
    async fn turn(&mut self) -> Result<Turn, String> {
        let begin = Instant::now();
        self.until.send_replace(Some(begin + TURN));
        let mut requests = 0;
        for _ in 0..CONNECTIONS {
            let answered = self.answered.recv().await;
            requests += answered.ok_or("the connections are gone")??;
        }
        let per_second = requests as f64 / begin.elapsed().as_secs_f64();
        Ok(Turn {
            requests,
            per_second,
        })
    }
}

struct Turn {
    requests: u64,
    per_second: f64,
}

async fn send(
    mut stream: TcpStream,
    request: String,
    mut turns: watch::Receiver<Option<Instant>>,
    tell: mpsc::Sender<Result<u64, String>>,
) {
    let mut length = None;
    while turns.changed().await.is_ok() {
        let Some(until) = *turns.borrow_and_update() else {
            continue;
        };
        let mut requests = 0;
        let result = loop {
            match exchange(&mut stream, &request, &mut length).await {
                Ok(()) => requests += 1,
                Err(error) => break Err(error),
            }
            if Instant::now() >= until {
                break Ok(requests);
            }
        };
        if tell.send(result).await.is_err() {
            return;
        }
    }
}

/// A request and its answer. All answers are as long as the first.
async fn exchange(
    stream: &mut TcpStream,
    request: &str,
    length: &mut Option<usize>,
) -> Result<(), String> {
    let failed = |error: io::Error| error.to_string();
    let mut answer = [0; 1024];
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut read = 0;
    while read == 0 || length.is_none_or(|length| read < length) {
        match stream.read(&mut answer[read..]).await.map_err(failed)? {
            0 => return Err("the connection has been closed".into()),
            more => read += more,
        }
        *length = length.or_else(|| length_of(&answer[..read]));
    }
    match answer.starts_with(b"HTTP/1.1 200 ") && *length == Some(read) {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&answer[..read]).into_owned()),
    }
}

/// How long an answer is whose head is all here.
fn length_of(answer: &[u8]) -> Option<usize> {
    let (head, _) = str::from_utf8(answer).ok()?.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let body = lines.find_map(|line| line.strip_prefix("content-length: "))?;
    Some(head.len() + 4 + body.parse::<usize>().ok()?)
}

/// What one process of each server came to: the middle of its turns over those of the
/// bare one beside them, and its processor time a request.
async fn group(variants: &[Variant], place: Place) -> Result<Vec<(f64, f64)>, String> {
    let mut servers = Vec::new();
    for variant in variants {
        let loaded = Loaded::new(*variant, place).await;
        servers.push(loaded.map_err(|error| error.to_string())?);
    }
    let mut turns: Vec<Vec<Turn>> = servers.iter().map(|_| Vec::new()).collect();
    let mut before = Vec::new();
    for round in 0..WARM + TURNS {
        if round == WARM {
            before = servers.iter().map(|it| it.process.burnt()).collect();
            turns.iter_mut().for_each(Vec::clear);
        }
        for step in 0..servers.len() {
            let which = (round + step) % servers.len();
            turns[which].push(servers[which].turn().await?);
        }
    }
    let figures = servers.iter().zip(&turns).zip(before);
    let figures = figures.map(|((server, own), before)| {
        let pairs = own.iter().zip(&turns[0]);
        let ratios: Vec<_> = pairs
            .map(|(a, bare)| a.per_second / bare.per_second)
            .collect();
        let burnt = server.process.burnt().zip(before);
        let burnt = burnt.map_or(f64::NAN, |(after, before)| (after - before).as_secs_f64());
        let requests: u64 = own.iter().map(|turn| turn.requests).sum();
        let ratio = Spread::of(&ratios).map_or(f64::NAN, |spread| spread.median);
        (ratio, burnt * 1e9 / requests as f64)
    });
    Ok(figures.collect())
}

/// The mean, and its standard error.
fn mean(numbers: &[f64]) -> (f64, f64) {
    let n = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / n;
    let squares: f64 = numbers.iter().map(|x| (x - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0) / n).sqrt())
}

/// Servers with 256 connections each over HTTP/1, in turns of 25 ms. A round is one
/// process of each server. The bare one is always among them.
///
/// # Errors
///
/// Those of the output.
pub fn turns<W: Write>(report: &mut Report<W>, effort: &Effort, place: Place) -> io::Result<()> {
    let [bare, others @ ..] = Variant::ALL;
    let mut variants = vec![bare];
    variants.extend(others.into_iter().filter(|it| effort.wants(it.name())));
    let mut groups = Vec::new();
    for _ in 0..effort.rounds {
        match single_thread().block_on(group(&variants, place)) {
            Ok(figures) => groups.push(figures),
            Err(error) => return report.line(Line::new("turns", "servers").with("error", error)),
        }
    }
    let round = |number: f64| (number * 1e4).round() / 1e4;
    for (which, variant) in variants.iter().enumerate() {
        let own = groups.iter().map(|group| group[which]);
        let (ratios, burnt): (Vec<_>, Vec<_>) = own.unzip();
        let bare = groups.iter().map(|group| group[0].1);
        let cpu: Vec<_> = burnt
            .iter()
            .zip(bare)
            .map(|(own, bare)| own / bare)
            .collect();
        let (ratio, error) = mean(&ratios);
        let mut line = Line::new("turns", variant.name())
            .with("handler", place.handler.name())
            .with("workers", place.workers)
            .with("throughput_over_bare", round(ratio))
            .with("standard_error", round(error))
            .with("cpu_over_bare", round(mean(&cpu).0));
        line.nanos = Spread::of(&burnt);
        report.line(line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_an_answer_is_known_once_its_head_is_there() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstored";
        assert_eq!(length_of(answer), Some(answer.len()));
        assert_eq!(length_of(&answer[..answer.len() - 3]), Some(answer.len()));
        assert_eq!(length_of(&answer[..30]), None);
    }

    #[test]
    fn the_mean_has_its_error() {
        let (mean, error) = mean(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(mean, 2.5);
        assert!((error - (5.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-12);
    }
}
