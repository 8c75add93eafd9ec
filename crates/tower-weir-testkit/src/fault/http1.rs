use std::{io, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time,
};

use super::{Fault, Shared, close, reset};

type Stream = BufReader<TcpStream>;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 10\r\n\r\n";
const BODY: &[u8; 10] = b"0123456789";
const NOT_HERE: &[u8] = b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-length: 0\r\n\r\n";

pub(super) async fn serve(mut stream: Stream, shared: &Shared) -> io::Result<()> {
    while read_request(&mut stream).await? {
        match shared.request() {
            None => {
                stream.write_all(OK).await?;
                stream.write_all(BODY).await?;
            }
            Some(Fault::Refused | Fault::ResetOnAccept | Fault::ResetBeforeResponse) => {
                return reset(stream.get_ref());
            }
            Some(Fault::CloseBeforeResponse) => return close(stream).await,
            Some(Fault::GarbageHead) => {
                stream.write_all(b"not HTTP at all\r\n\r\n").await?;
                return close(stream).await;
            }
            Some(Fault::GoAway(_) | Fault::ResetStream(_)) => stream.write_all(NOT_HERE).await?,
            Some(Fault::Hang) => {}
            Some(Fault::SlowBody(gap)) => {
                stream.write_all(OK).await?;
                trickle(&mut stream, gap).await?;
            }
            Some(Fault::CloseMidBody) => {
                stream.write_all(OK).await?;
                stream.write_all(&BODY[..5]).await?;
                return close(stream).await;
            }
        }
    }
    Ok(())
}

async fn trickle(stream: &mut Stream, gap: Duration) -> io::Result<()> {
    for octet in BODY {
        time::sleep(gap).await;
        stream.write_all(&[*octet]).await?;
    }
    Ok(())
}

/// Reads one request, body and all; false at the end of the connection.
async fn read_request(stream: &mut Stream) -> io::Result<bool> {
    let (mut length, mut chunked) = (0, false);
    if read_line(stream).await?.is_empty() {
        return Ok(false);
    }
    loop {
        let line = read_line(stream).await?.to_ascii_lowercase();
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        match name {
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "transfer-encoding" => chunked = value.trim() == "chunked",
            _ => {}
        }
    }
    if chunked {
        while skip_chunk(stream).await? {}
    } else {
        skip(stream, length).await?;
    }
    Ok(true)
}

/// Skips one chunk (RFC 9112 section 7.1); false after the last one.
async fn skip_chunk(stream: &mut Stream) -> io::Result<bool> {
    let line = read_line(stream).await?;
    let size = line.split(';').next().unwrap_or_default().trim();
    let size = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
    if size > 0 {
        skip(stream, size + 2).await?;
        return Ok(true);
    }
    while !read_line(stream).await?.trim().is_empty() {}
    Ok(false)
}

async fn skip(stream: &mut Stream, length: u64) -> io::Result<()> {
    tokio::io::copy(&mut stream.take(length), &mut tokio::io::sink()).await?;
    Ok(())
}

async fn read_line(stream: &mut Stream) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    Ok(line)
}
