use tests::{
    client::{Over, hyper},
    wait::within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower_weir::server::AdmissionLayer;

use crate::house::{House, Served, until_pending};

/// Both ends of each are in this process, which may have 1,024 files open.
const BATCH: usize = 200;

async fn post(served: &Served) -> TcpStream {
    let mut stream = TcpStream::connect(served.addr).await.unwrap();
    let request = "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn ten_thousand_connections_that_vanish_leave_nothing_pending() {
    let layer = AdmissionLayer::new().throttle_at(1);
    let house = House::new();
    let served = Served::new(house.routes().layer(layer.clone())).await;
    for batch in 0..50 {
        let mut streams = Vec::new();
        for _ in 0..BATCH {
            streams.push(post(&served).await);
        }
        until_pending(&layer, (BATCH, BATCH - 1)).await;
        // Half leave the queue before the one that runs, and half after.
        if batch % 2 == 0 {
            streams.reverse();
        }
        drop(streams);
        until_pending(&layer, (0, 0)).await;
    }
    let key = &layer.snapshot()[0];
    assert_eq!(key.weight, 0);
    for class in &key.classes {
        let left = (class.bytes, class.oldest, class.rejected.total());
        assert_eq!(left, (0, None, 0), "{}", class.class);
    }
    // The one place is free.
    house.let_out(1);
    let mut answer = [0; 12];
    let mut last = post(&served).await;
    let read = last.read_exact(&mut answer);
    within("the answer", read).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test]
async fn a_stream_of_http2_that_is_reset_leaves_the_queue_at_once() {
    let layer = AdmissionLayer::new().throttle_at(1);
    let house = House::new();
    let served = Served::new(house.routes().layer(layer.clone())).await;
    let client = hyper(Over::Http2);
    let call = || {
        let request = http::Request::post(served.url("/a")).body(String::new());
        tokio::spawn(client.request(request.unwrap()))
    };
    let first = call();
    until_pending(&layer, (1, 0)).await;
    let second = call();
    until_pending(&layer, (2, 1)).await;
    second.abort();
    until_pending(&layer, (1, 0)).await;
    house.let_out(1);
    let answer = within("the answer", first).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
}
