//! A network that can be cut: a proxy between a client and a server.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::server::Server;

/// Forwards connections to a server until it is told to cut them.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    cuts: watch::Sender<u64>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// In front of a server.
    pub async fn start(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cuts = watch::Sender::new(0);
        let (watched, connect) = (cuts.clone(), server.connector());
        let accepting = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut cut = watched.subscribe();
                let connect = connect.clone();
                tokio::spawn(async move {
                    let mut server = connect.connect().await;
                    tokio::select! {
                        // An end of either side ends both.
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { address, cuts, accepting }
    }

    /// Where it is, as clients take it.
    pub fn target(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Cuts every connection there is. New ones are let through.
    pub fn cut(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
