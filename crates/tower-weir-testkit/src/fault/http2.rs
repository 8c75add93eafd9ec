//! As much of HTTP/2 (RFC 9113) as it takes to be faulty in it: frames are
//! written by hand, and the requests' header blocks are not decoded.

use std::{collections::HashMap, io};

use bytes::{BufMut, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time,
};

use super::{Fault, Shared, close, reset};

type Stream = BufReader<TcpStream>;

const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const PING: u8 = 0x6;
const GOAWAY: u8 = 0x7;
const WINDOW_UPDATE: u8 = 0x8;

const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

// HPACK (RFC 7541): `:status: 200` from the static table, then literals that are
// not indexed, of which content-type has its name from the table.
const HEAD: &[u8] = b"\x88\x0f\x10\x10application/grpc";
const GRPC_OK: &[u8] = b"\x00\x0bgrpc-status\x010";

/// An empty gRPC message: not compressed, no octets.
const EMPTY: &[u8] = &[0; 5];
/// A gRPC message, ten octets long with its prefix, whose only field has a
/// number that none of our messages know.
const TEN: &[u8; 10] = b"\0\0\0\0\x05\x7a\x03abc";

pub(super) async fn serve(mut stream: Stream, shared: &Shared) -> io::Result<()> {
    stream.read_exact(&mut [0; PREFACE]).await?;
    write(&mut stream, SETTINGS, 0, 0, &[]).await?;
    let mut open = HashMap::new();
    let mut newest = 0;
    loop {
        let frame = Frame::read(&mut stream).await?;
        let id = frame.stream;
        match frame.kind {
            SETTINGS | PING if !frame.has(ACK) => {
                let echo: &[u8] = if frame.kind == PING {
                    &frame.payload
                } else {
                    &[]
                };
                write(&mut stream, frame.kind, ACK, 0, echo).await?;
            }
            HEADERS if id > newest => match shared.request() {
                answer @ (None | Some(Fault::SlowBody(_) | Fault::CloseMidBody)) => {
                    open.insert(id, answer);
                }
                Some(Fault::Refused | Fault::ResetOnAccept | Fault::ResetBeforeResponse) => {
                    return reset(stream.get_ref());
                }
                Some(Fault::CloseBeforeResponse) => return close(stream).await,
                Some(Fault::GarbageHead) => {
                    stream.write_all(b"not HTTP at all\r\n\r\n").await?;
                    return close(stream).await;
                }
                Some(Fault::GoAway(code)) => {
                    let last_stream = id.saturating_sub(2);
                    let payload = [last_stream.to_be_bytes(), u32::from(code).to_be_bytes()];
                    write(&mut stream, GOAWAY, 0, 0, payload.as_flattened()).await?;
                }
                Some(Fault::ResetStream(code)) => {
                    let payload = u32::from(code).to_be_bytes();
                    write(&mut stream, RST_STREAM, 0, id, &payload).await?;
                }
                Some(Fault::Hang) => {}
            },
            DATA if !frame.payload.is_empty() => {
                let credit = (frame.payload.len() as u32).to_be_bytes();
                write(&mut stream, WINDOW_UPDATE, 0, 0, &credit).await?;
                if !frame.has(END_STREAM) {
                    write(&mut stream, WINDOW_UPDATE, 0, id, &credit).await?;
                }
            }
            _ => {}
        }
        newest = newest.max(id);
        let ends = matches!(frame.kind, DATA | HEADERS) && frame.has(END_STREAM);
        if let Some(answer) = ends.then(|| open.remove(&id)).flatten() {
            write(&mut stream, HEADERS, END_HEADERS, id, HEAD).await?;
            match answer {
                Some(Fault::CloseMidBody) => {
                    write(&mut stream, DATA, 0, id, &TEN[..5]).await?;
                    return close(stream).await;
                }
                Some(Fault::SlowBody(gap)) => {
                    for octet in TEN {
                        time::sleep(gap).await;
                        write(&mut stream, DATA, 0, id, &[*octet]).await?;
                    }
                }
                _ => write(&mut stream, DATA, 0, id, EMPTY).await?,
            }
            write(&mut stream, HEADERS, END_HEADERS | END_STREAM, id, GRPC_OK).await?;
        }
    }
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    async fn read(from: &mut Stream) -> io::Result<Self> {
        let word = from.read_u32().await?;
        let flags = from.read_u8().await?;
        let stream = from.read_u32().await? & 0x7fff_ffff;
        let mut payload = vec![0; (word >> 8) as usize];
        from.read_exact(&mut payload).await?;
        Ok(Self {
            kind: word as u8,
            flags,
            stream,
            payload,
        })
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

async fn write(
    to: &mut Stream,
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &[u8],
) -> io::Result<()> {
    let mut frame = BytesMut::with_capacity(9 + payload.len());
    frame.put_uint(payload.len() as u64, 3);
    frame.put_u8(kind);
    frame.put_u8(flags);
    frame.put_u32(stream);
    frame.put_slice(payload);
    to.write_all(&frame).await
}
