//! A network that breaks.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A network that breaks each connection once it has carried so many bytes to the client; when the list is
/// used up it holds.
///
/// The counter tells how many connections there were.
pub(crate) async fn break_after(
    server: SocketAddr,
    mut budgets: VecDeque<usize>,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            let upstream = TcpStream::connect(server).await.unwrap();
            tokio::spawn(carry(client, upstream, budgets.pop_front().unwrap_or(usize::MAX)));
        }
    });
    (address, connections)
}

async fn carry(client: TcpStream, server: TcpStream, mut budget: usize) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
        let sent = count.min(budget);
        if to_client.write_all(&buffer[..sent]).await.is_err() || sent < count {
            break;
        }
        budget -= sent;
    }
    up.abort();
}
