//! Ports and connections of the loopback.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time,
};

const BACKLOG: u32 = 1024;
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// A port that stays ours whether or not anything listens on it.
///
/// The holder is bound and never listens, so connects are refused while no
/// listener of [`Port::listen`] lives. Without it another process could be
/// given the port meanwhile, and a client that keeps connecting to a free
/// ephemeral port can end up connected to itself.
#[derive(Debug)]
pub(crate) struct Port {
    addr: SocketAddr,
    _holder: TcpSocket,
}

impl Port {
    /// Takes `addr`; port 0 takes any free one.
    pub(crate) fn reserve(addr: SocketAddr) -> io::Result<Self> {
        let holder = bound(addr)?;
        Ok(Self {
            addr: holder.local_addr()?,
            _holder: holder,
        })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Listens until the listener is dropped; then connects are refused again.
    pub(crate) fn listen(&self) -> io::Result<TcpListener> {
        bound(self.addr)?.listen(BACKLOG)
    }
}

fn bound(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    // Linux lets a listener share a port with a socket that only holds it; the
    // other systems ask for this, and then also let strangers share it
    #[cfg(all(unix, not(target_os = "linux")))]
    socket.set_reuseport(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

/// Accepts for as long as it is polled. Dropping it closes the listener and
/// cuts every connection.
pub(crate) async fn serve<F, Fut>(listener: TcpListener, mut each: F)
where
    F: FnMut(TcpStream) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(each(stream));
                }
                // out of descriptors: accepting again at once would spin
                Err(_) => time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_refuses_listens_and_refuses_again() {
        let port = Port::reserve(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        for _ in 0..3 {
            let refused = TcpStream::connect(port.addr()).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

            let listener = port.listen().unwrap();
            TcpStream::connect(port.addr()).await.unwrap();
            drop(listener);
        }
    }
}
