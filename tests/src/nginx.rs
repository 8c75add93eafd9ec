//! The nginx of those tests that run against it: `nginx` from the PATH, or
//! `/usr/sbin/nginx`.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::sleep,
};

/// An nginx that runs until this is dropped.
#[derive(Debug)]
pub struct Nginx {
    /// Where it listens.
    pub addr: SocketAddr,
    folder: PathBuf,
    _process: Child,
}

impl Nginx {
    /// Starts it with `rules` in its one location, whose root has an
    /// `index.html` that says `done`.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start(rules: &str) -> Self {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-weir-nginx-{}-{number}", std::process::id());
        let folder = env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("index.html"), "done").unwrap();
        // Somebody else may take the port before nginx does: then another.
        for _ in 0..5 {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let addr = free.local_addr().unwrap();
            drop(free);
            if let Some(process) = run(&folder, addr, rules).await {
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
    ///
    /// # Panics
    /// If the log cannot be read.
    pub async fn log(&self, served: usize) -> Vec<(u64, u16)> {
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
async fn run(folder: &Path, addr: SocketAddr, rules: &str) -> Option<Child> {
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
                location / {{ root {dir}; {rules} }}
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
