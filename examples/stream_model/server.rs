//! A server in this process, on a free port, and a client of it.

use noised::noise::MasterKey;
use noised_client::Client;
use noised_server::config::Options;
use noised_server::{Config, ListenAddr, Listener};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) struct Server {
    client: Client,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<anyhow::Result<()>>,
}

impl Server {
    pub(crate) async fn start(master_key: &MasterKey) -> anyhow::Result<Self> {
        let listen = ListenAddr::Tcp(([127, 0, 0, 1], 0).into());
        let config = Config::new(Options { listen: Some(listen), ..Options::default() })?;
        let config = Config { master_key: Some(master_key.clone()), ..config };
        let listener = Listener::bind(&config.listen).await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(noised_server::run(listener, config, async {
            // A sender that is dropped stops it as well.
            let _ = stopped.await;
        }));
        let client = Client::connect(&address.to_string()).await?;
        Ok(Self { client, stop, serving })
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let Self { client, stop, serving } = self;
        drop((client, stop));
        serving.await?
    }
}
