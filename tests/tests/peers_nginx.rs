//! A bulk writer against nginx's `limit_req`, which counts requests a second.
//!
//! Runs `nginx` from the PATH, or `/usr/sbin/nginx`.
#![cfg(feature = "peers")]

use std::{
    collections::BTreeSet,
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::JoinSet,
    time::{Instant, sleep},
};
use tower::{Layer, ServiceExt};
use tower_weir::Weir;

struct Nginx {
    addr: SocketAddr,
    folder: PathBuf,
    _process: Child,
}

impl Nginx {
    /// Starts it with `limits` in its one location.
    async fn start(limits: &str) -> Self {
        let folder = env::temp_dir().join(format!("tower-weir-nginx-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("index.html"), "done").unwrap();
        // Somebody else may take the port before nginx does: then another.
        for _ in 0..5 {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let addr = free.local_addr().unwrap();
            drop(free);
            if let Some(process) = run(&folder, addr, limits).await {
                return Self {
                    addr,
                    folder,
                    _process: process,
                };
            }
        }
        let log = fs::read_to_string(folder.join("error.log"));
        panic!("nginx does not start: {}", log.unwrap_or_default());
    }

    /// The connection and the status of each request, once `served` of them
    /// have been logged: nginx answers first.
    async fn log(&self, served: usize) -> Vec<(u64, u16)> {
        let line = |line: &str| -> (u64, u16) {
            let (connection, status) = line.split_once(' ').unwrap();
            (connection.parse().unwrap(), status.parse().unwrap())
        };
        let mut log = Vec::new();
        for _ in 0..1_000 {
            let text = fs::read_to_string(self.folder.join("access.log")).unwrap();
            log = text.lines().map(line).collect();
            if log.iter().filter(|(_, status)| *status == 200).count() >= served {
                break;
            }
            sleep(Duration::from_millis(5)).await;
        }
        log
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // What is left of it in a folder for such things harms nobody.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Runs nginx in the foreground; `None` if it ends before it accepts.
async fn run(folder: &Path, addr: SocketAddr, limits: &str) -> Option<Child> {
    let dir = folder.display();
    let config = format!(
        "daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/error.log;
        events {{ worker_connections 512; }}
        http {{
            log_format plain '$connection $status';
            access_log {dir}/access.log plain;
            client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;
            fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi;
            scgi_temp_path {dir}/scgi;
            keepalive_requests 100000;
            limit_req_zone $server_name zone=all:1m rate=50r/s;
            limit_req_status 429;
            server {{
                listen {addr}; server_name upstream;
                location / {{ root {dir}; {limits} }}
            }}
        }}"
    );
    let path = folder.join("nginx.conf");
    fs::write(&path, config).unwrap();
    let mut process = command(&path)?;
    while process.try_wait().unwrap().is_none() {
        if TcpStream::connect(addr).await.is_ok() {
            return Some(process);
        }
        sleep(Duration::from_millis(5)).await;
    }
    None
}

fn command(config: &Path) -> Option<Child> {
    ["nginx", "/usr/sbin/nginx"].into_iter().find_map(|nginx| {
        let mut command = Command::new(nginx);
        command.arg("-c").arg(config).stderr(Stdio::null());
        command.kill_on_drop(true).spawn().ok()
    })
}

#[tokio::test]
async fn a_bulk_run_through_limit_req_loses_nothing_and_takes_what_the_rate_allows() {
    const REQUESTS: usize = 500;
    let nginx = Nginx::start("limit_req zone=all burst=10 nodelay;").await;
    let stack = Weir::http()
        .bulk()
        .layer(Client::builder(TokioExecutor::new()).build_http());
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..32 {
        let (stack, next) = (stack.clone(), next.clone());
        let uri = format!("http://{}/index.html", nginx.addr);
        callers.spawn(async move {
            let mut done = 0;
            while next.fetch_add(1, Ordering::Relaxed) < REQUESTS {
                let request = Request::get(&uri).body(Empty::<Bytes>::new()).unwrap();
                let answer = stack.clone().oneshot(request).await.unwrap();
                assert_eq!(answer.status(), StatusCode::OK);
                assert_eq!(answer.collect().await.unwrap().to_bytes(), "done");
                done += 1;
            }
            done
        });
    }
    let delivered: usize = callers.join_all().await.into_iter().sum();
    let took = start.elapsed().as_secs_f64();
    let log = nginx.log(REQUESTS).await;
    let served = log.iter().filter(|(_, status)| *status == 200).count();
    let refused = log.iter().filter(|(_, status)| *status == 429).count();
    let connections: BTreeSet<_> = log.iter().map(|(connection, _)| connection).collect();
    assert_eq!((delivered, served), (REQUESTS, REQUESTS));
    assert_eq!(served + refused, log.len());
    assert!(refused > 0, "the rate was never reached");
    let ideal = REQUESTS as f64 / 50.0;
    assert!(took <= 1.3 * ideal, "{took}");
    assert!(connections.len() <= 16, "{}", connections.len());
}
