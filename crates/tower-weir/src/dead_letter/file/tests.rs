use std::{
    fs,
    io::Write,
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use super::*;
use crate::{
    dead_letter::{Absent, GrpcStatus, LetterAttempt, LetterBody, LetterResult},
    outcome::Processed,
};

/// A folder of the test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-weir-letters-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.join("letters.jsonl")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn at(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
}

fn letter(body: impl Into<Bytes>) -> Letter {
    let mut headers = HeaderMap::new();
    headers.append("x-tag", "one".parse().unwrap());
    headers.append("x-tag", "two".parse().unwrap());
    headers.insert("idempotency-key", "k".parse().unwrap());
    Letter {
        at: at(1_700_000_000_123),
        method: Method::POST,
        uri: "http://index.test/upsert?x=y".parse().unwrap(),
        headers,
        left_out: vec!["authorization".parse().unwrap()],
        body: LetterBody::Whole(body.into()),
        attempts: vec![
            LetterAttempt {
                at: at(1_700_000_000_001),
                host: "index.test".to_owned(),
                took: Some(Duration::from_millis(20)),
                cause: Some("503".to_owned()),
                delay: Some(Duration::from_millis(100)),
            },
            LetterAttempt {
                at: at(1_700_000_000_121),
                host: "index.test".to_owned(),
                took: None,
                cause: None,
                delay: None,
            },
        ],
        ending: Some("the deadline passed".to_owned()),
        processed: Processed::Maybe,
        result: LetterResult::Cancelled,
    }
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn read(path: &Path) -> Vec<Letter> {
    Letters::open(path).unwrap().map(Result::unwrap).collect()
}

/// What a killed writer leaves behind.
fn torn(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[test]
fn a_letter_is_one_line_and_comes_back_the_same() {
    let mut letter = letter("{\"id\":7}\n");
    let line = serde_json::to_string(&letter).unwrap();
    assert_eq!(
        line,
        concat!(
            r#"{"v":1,"at":"2023-11-14T22:13:20.123Z","method":"POST","#,
            r#""uri":"http://index.test/upsert?x=y","#,
            r#""headers":[["x-tag","one"],["x-tag","two"],["idempotency-key","k"]],"#,
            r#""left_out":["authorization"],"body":{"text":"{\"id\":7}\n"},"#,
            r#""attempts":[{"at":"2023-11-14T22:13:20.001Z","host":"index.test","#,
            r#""took_ms":20,"cause":"503","delay_ms":100},"#,
            r#"{"at":"2023-11-14T22:13:20.121Z","host":"index.test"}],"#,
            r#""ending":"the deadline passed","processed":"maybe","result":"cancelled"}"#,
        )
    );
    let back = |letter: &Letter| -> Letter {
        serde_json::from_str(&serde_json::to_string(letter).unwrap()).unwrap()
    };
    assert_eq!(back(&letter), letter);

    letter.body = LetterBody::Whole(Bytes::from_static(&[0, 159, 146, 150]));
    letter
        .headers
        .insert("x-raw", http::HeaderValue::from_bytes(&[0xff]).unwrap());
    letter.result = LetterResult::Response {
        status: StatusCode::OK,
        grpc: Some(GrpcStatus {
            code: "UNAVAILABLE".to_owned(),
            message: None,
        }),
    };
    assert_eq!(back(&letter), letter);
    for why in ["not_recorded", "too_long", "no_room", "failed", "timed_out"] {
        let text = line.replace(
            r#"{"text":"{\"id\":7}\n"}"#,
            &format!(r#"{{"absent":"{why}"}}"#),
        );
        letter = serde_json::from_str(&text).unwrap();
        let LetterBody::Absent(absent) = letter.body else {
            panic!("{:?}", letter.body)
        };
        assert_eq!(absent.as_str(), why);
        assert_eq!(back(&letter), letter);
    }
    assert_eq!(letter.request().unwrap_err(), Absent::TimedOut);
}

#[test]
fn a_letter_becomes_the_request_again() {
    let letter = letter("all of it");
    let request = letter.request().unwrap();
    assert_eq!(request.method(), Method::POST);
    assert_eq!(request.uri(), "http://index.test/upsert?x=y");
    assert_eq!(request.headers(), &letter.headers);
    assert_eq!(request.body(), "all of it");
    assert_eq!(letter.idempotency_key().unwrap(), "k");
}

#[test]
fn what_is_no_letter_says_why() {
    let line = serde_json::to_string(&letter("")).unwrap();
    for (part, wrong, why) in [
        (r#""v":1"#, r#""v":2"#, "v: version 2 is not known"),
        ("POST", "P ST", "method: "),
        ("http://index.test/", "http://a b/", "uri: "),
        ("2023-11-14T22:13:20.123Z", "yesterday", "at: "),
        (r#"{"text":""}"#, r#"{"base64":"?"}"#, "body: "),
        (r#"{"text":""}"#, r#"{"absent":"x"}"#, "body: x"),
        (r#"["x-tag","one"]"#, r#"["x tag","one"]"#, "headers: "),
        (r#""cancelled""#, r#"{"response":{"status":7}}"#, "status: "),
    ] {
        let text = line.replace(part, wrong);
        let error = serde_json::from_str::<Letter>(&text).unwrap_err();
        assert!(error.to_string().starts_with(why), "{error}");
    }
}

#[test]
fn a_torn_line_is_cut_off_and_a_whole_one_is_ended() {
    for (tail, expected) in [
        ("{\"b\":", vec!["{\"a\":1}", "{\"c\":1}"]),
        ("{\"b\":2}", vec!["{\"a\":1}", "{\"b\":2}", "{\"c\":1}"]),
        ("\0\0", vec!["{\"a\":1}", "{\"c\":1}"]),
        ("", vec!["{\"a\":1}", "{\"c\":1}"]),
    ] {
        let folder = Folder::new();
        let mut file = LineFile::open(folder.file()).unwrap();
        file.append(b"{\"a\":1}".to_vec()).unwrap();
        drop(file);
        torn(&folder.file(), tail);
        let mut file = LineFile::open(folder.file()).unwrap();
        file.append(b"{\"c\":1}".to_vec()).unwrap();
        assert_eq!(lines(&folder.file()), expected, "{tail}");
        let length = fs::metadata(folder.file()).unwrap().len();
        assert_eq!(file.length(), length);
    }
}

#[test]
fn a_torn_line_longer_than_a_block_is_found() {
    let folder = Folder::new();
    for whole in ["", "{}\n"] {
        fs::write(folder.file(), whole).unwrap();
        torn(&folder.file(), &format!("[\"{}", "x".repeat(200_000)));
        let file = LineFile::open(folder.file()).unwrap();
        assert_eq!(file.length(), whole.len() as u64);
    }
}

#[test]
fn there_is_one_writer() {
    let folder = Folder::new();
    let file = LineFile::open(folder.file()).unwrap();
    let error = LineFile::open(folder.file()).unwrap_err();
    assert!(matches!(error, OpenError::Locked(_)));
    let said = error.to_string();
    assert!(
        said.ends_with("letters.jsonl: another process writes to it"),
        "{said}"
    );
    drop(file);
    LineFile::open(folder.file()).unwrap();
    let missing = folder.0.join("no/such");
    let error = LineFile::open(missing).unwrap_err();
    assert!(matches!(error, OpenError::Io(..)), "{error}");
}

/// One that leads to a file, or to where one will be, over another link.
#[cfg(unix)]
#[test]
fn a_link_has_the_lock_of_what_it_leads_to() {
    use std::os::unix::fs::symlink;
    let folder = Folder::new();
    let (link, first) = (folder.0.join("elsewhere/link"), folder.0.join("first"));
    fs::create_dir(folder.0.join("elsewhere")).unwrap();
    symlink("../first", &link).unwrap();
    symlink("letters.jsonl", &first).unwrap();
    for there in [false, true] {
        assert_eq!(folder.file().exists(), there);
        let mut file = LineFile::open(&link).unwrap();
        for other in [&folder.file(), &first, &link] {
            let error = LineFile::open(other).unwrap_err();
            assert!(matches!(error, OpenError::Locked(_)), "{error}");
        }
        file.append(b"[1]".to_vec()).unwrap();
        // The link stays one, and what is put aside is beside the file.
        let aside = file.rotate().unwrap();
        assert_eq!(files(&link).unwrap().last(), Some(&folder.file()));
        assert_eq!(lines(&aside), ["[1]"]);
        assert!(link.is_symlink() && first.is_symlink());
    }
    assert_eq!(files(&link).unwrap(), files(&folder.file()).unwrap());
    // Not an end of its own: the system says so.
    symlink("round", folder.0.join("round")).unwrap();
    let error = LineFile::open(folder.0.join("round")).unwrap_err();
    assert!(matches!(error, OpenError::Io(..)), "{error}");
}

/// As somebody does who puts full files aside on a schedule.
#[tokio::test]
async fn what_is_moved_away_is_not_written_on() {
    for fsync in [Fsync::Never, Fsync::EveryLetter] {
        let folder = Folder::new();
        let away = folder.0.join("away");
        let sink = JsonlFile::options().fsync(fsync);
        let sink = sink.open(folder.file()).unwrap();
        sink.deliver(letter("a")).await.unwrap();
        fs::rename(folder.file(), &away).unwrap();
        sink.deliver(letter("b")).await.unwrap();
        assert_eq!(read(&away), [letter("a")]);
        assert_eq!(read(&folder.file()), [letter("b")]);
        // Deleted, and another one in its place that does not end with a line.
        fs::remove_file(folder.file()).unwrap();
        let line = serde_json::to_string(&letter("c")).unwrap();
        fs::write(folder.file(), &line).unwrap();
        sink.deliver(letter("d")).await.unwrap();
        assert_eq!(read(&folder.file()), [letter("c"), letter("d")]);
        // It is still this writer's.
        let error = LineFile::open(folder.file()).unwrap_err();
        assert!(matches!(error, OpenError::Locked(_)));
    }
}

/// A letter is lost, and told of, rather than put where nobody looks.
#[tokio::test]
async fn a_file_that_cannot_be_made_again_is_an_error() {
    let folder = Folder::new();
    let sink = JsonlFile::open(folder.file()).unwrap();
    sink.deliver(letter("a")).await.unwrap();
    fs::rename(folder.file(), folder.0.join("away")).unwrap();
    fs::create_dir(folder.file()).unwrap();
    sink.deliver(letter("b")).await.unwrap_err();
    fs::remove_dir(folder.file()).unwrap();
    sink.deliver(letter("c")).await.unwrap();
    assert_eq!(read(&folder.file()), [letter("c")]);
}

#[test]
fn what_others_have_cut_off_is_not_there_any_more() {
    let folder = Folder::new();
    let mut file = LineFile::open(folder.file()).unwrap();
    for _ in 0..3 {
        file.append(b"[1]".to_vec()).unwrap();
    }
    let other = fs::OpenOptions::new().write(true).open(folder.file());
    other.unwrap().set_len(4).unwrap();
    file.append(b"[2]".to_vec()).unwrap();
    assert_eq!(lines(&folder.file()), ["[1]", "[2]"]);
    assert_eq!(file.length(), 8);
}

#[test]
fn files_put_aside_keep_their_names_and_their_order() {
    let folder = Folder::new();
    let mut file = LineFile::open(folder.file()).unwrap();
    for number in 1..=11 {
        file.append(format!("[{number}]").into_bytes()).unwrap();
        let aside = file.rotate().unwrap();
        assert_eq!(aside.extension().unwrap(), &*number.to_string());
        assert_eq!(file.length(), 0);
    }
    file.append(b"[12]".to_vec()).unwrap();
    let all = files(&folder.file()).unwrap();
    let all: Vec<_> = all.iter().flat_map(|file| lines(file)).collect();
    let expected: Vec<_> = (1..=12).map(|number| format!("[{number}]")).collect();
    assert_eq!(all, expected);
}

#[test]
fn a_reader_passes_over_a_torn_end_and_tells_of_a_bad_line() {
    let folder = Folder::new();
    let good = serde_json::to_string(&letter("a")).unwrap();
    fs::write(
        folder.file(),
        format!("{good}\nrubbish\n{good}\n{}", &good[..50]),
    )
    .unwrap();
    let mut letters = Letters::open(folder.file()).unwrap();
    assert_eq!(letters.next().unwrap().unwrap(), letter("a"));
    let error = letters.next().unwrap().unwrap_err();
    assert_eq!(error.line(), 2);
    assert!(
        error.to_string().contains("letters.jsonl, line 2: "),
        "{error}"
    );
    assert_eq!(letters.next().unwrap().unwrap(), letter("a"));
    assert_eq!(letters.line(), 3);
    assert!(letters.next().is_none());
    torn(&folder.file(), &good[50..]);
    assert_eq!(read_good(&folder.file()), 3, "it needs only its end");
}

fn read_good(path: &Path) -> usize {
    Letters::open(path).unwrap().filter(Result::is_ok).count()
}

#[tokio::test]
async fn what_counts_as_written_is_in_the_file() {
    for fsync in [
        Fsync::Never,
        Fsync::EveryLetter,
        Fsync::Every(3.try_into().unwrap()),
    ] {
        let folder = Folder::new();
        let sink = JsonlFile::options().fsync(fsync).queue(1);
        let sink = sink.open(folder.file()).unwrap();
        for number in 0..10 {
            sink.deliver(letter(number.to_string())).await.unwrap();
            assert_eq!(read(&folder.file()).len(), number + 1);
        }
        sink.flush().await.unwrap();
        assert_eq!(read(&folder.file())[9], letter("9"));
    }
}

#[tokio::test]
async fn a_closed_file_can_be_opened_again() {
    let folder = Folder::new();
    let sink = JsonlFile::open(folder.file()).unwrap();
    let error = JsonlFile::open(folder.file()).unwrap_err();
    assert!(matches!(error, OpenError::Locked(_)));
    sink.deliver(letter("a")).await.unwrap();
    sink.close().await.unwrap();
    let error = sink.deliver(letter("b")).await.unwrap_err();
    assert_eq!(error.to_string(), "the file is closed");
    let again = JsonlFile::open(folder.file()).unwrap();
    again.deliver(letter("c")).await.unwrap();
    assert_eq!(read(&folder.file()), [letter("a"), letter("c")]);
}

#[tokio::test]
async fn a_file_of_full_length_is_put_aside() {
    let folder = Folder::new();
    let line = serde_json::to_string(&letter("")).unwrap().len() as u64 + 1;
    let sink = JsonlFile::options().rotate_at(NonZeroU64::new(2 * line + 1));
    let sink = sink.open(folder.file()).unwrap();
    for _ in 0..5 {
        sink.deliver(letter("")).await.unwrap();
    }
    let files = files(&folder.file()).unwrap();
    let counts: Vec<_> = files.iter().map(|file| read(file).len()).collect();
    assert_eq!(counts, [2, 2, 1]);
}

/// A device that is always full stands for a disk that is.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_is_an_error_of_that_letter() {
    let folder = Folder::new();
    std::os::unix::fs::symlink("/dev/full", folder.file()).unwrap();
    let sink = JsonlFile::open(folder.file()).unwrap();
    for _ in 0..2 {
        sink.deliver(letter("")).await.unwrap_err();
    }
}

#[test]
fn what_cannot_be_read_is_told_once() {
    let folder = Folder::new();
    let told: Vec<_> = Letters::open(&folder.0).unwrap().take(2).collect();
    assert_eq!(told.len(), 1);
    assert!(told[0].is_err());
}

#[test]
fn headers_without_number_are_read_or_refused() {
    let line = serde_json::to_string(&letter("")).unwrap();
    let with = |name: &dyn Fn(usize) -> String| {
        let headers: String = (0..40_000)
            .map(|n| format!(r#"["{}",""],"#, name(n)))
            .collect();
        let line = line.replace(r#"["x-tag","one"],"#, &headers);
        serde_json::from_str::<Letter>(&line)
    };
    let letter = with(&|_| "x-tag".to_owned()).unwrap();
    assert_eq!(letter.headers.get_all("x-tag").iter().count(), 40_001);
    let error = with(&|number| format!("x-{number}")).unwrap_err();
    assert!(error.to_string().starts_with("headers: "), "{error}");
}

#[test]
fn who_is_locked_out_has_not_opened_the_file() {
    let folder = Folder::new();
    let _writer = LineFile::open(folder.file()).unwrap();
    // As between the two steps of putting it aside.
    fs::rename(folder.file(), folder.0.join("letters.jsonl.1")).unwrap();
    LineFile::open(folder.file()).unwrap_err();
    assert!(!folder.file().exists());
}

#[tokio::test]
async fn a_file_that_cannot_be_put_aside_grows() {
    let folder = Folder::new();
    let sink = JsonlFile::options().rotate_at(NonZeroU64::new(1));
    let sink = sink.open(folder.file()).unwrap();
    let last = folder.0.join(format!("letters.jsonl.{}", u64::MAX));
    fs::write(&last, "").unwrap();
    for _ in 0..3 {
        sink.deliver(letter("")).await.unwrap();
    }
    assert_eq!(read(&folder.file()).len(), 3);
    fs::remove_file(last).unwrap();
    sink.deliver(letter("")).await.unwrap();
    let files = files(&folder.file()).unwrap();
    let counts: Vec<_> = files.iter().map(|file| read(file).len()).collect();
    assert_eq!(counts, [3, 1]);
}

#[test]
fn a_file_of_another_kind_is_left_as_it_is() {
    let folder = Folder::new();
    for text in ["some notes", "{}\nmore notes", "12"] {
        fs::write(folder.file(), text).unwrap();
        let error = LineFile::open(folder.file()).unwrap_err();
        assert!(matches!(error, OpenError::Io(..)), "{error}");
        assert_eq!(fs::read_to_string(folder.file()).unwrap(), text);
    }
}
