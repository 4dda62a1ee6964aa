//! The agent's own port.

use crate::fleet::{Agent, Master, until};
use proto::health::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use std::net::{SocketAddr, TcpListener};
use tonic::{Code, transport::Channel};

async fn client(address: SocketAddr) -> HealthClient<Channel> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    HealthClient::new(endpoint.connect_lazy())
}

fn service(name: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: name.to_owned() }
}

/// One that was free a moment ago, of an address that no other test has.
fn free(master: &Master) -> SocketAddr {
    TcpListener::bind((master.address.ip(), 0)).unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_health_and_that_is_whether_a_command_would_get_through() {
    let mut master = Master::start();
    master.kill();
    let address = free(&master);
    let flags = ["--port", &address.port().to_string(), "--bind-address", &address.ip().to_string()];
    let agent = Agent::start(master.folder.path(), "lady", &master.address.to_string(), &flags);
    agent.line("Cannot connect to master");
    let mut client = client(address).await;
    let mut check = async |name: &str| client.check(service(name)).await.map(|reply| reply.into_inner().status());
    assert_eq!(check("").await.unwrap(), ServingStatus::NotServing);
    assert_eq!(check("liveness").await.unwrap(), ServingStatus::Serving);
    assert_eq!(check("sloth").await.unwrap_err().code(), Code::NotFound);

    let mut watching = self::client(address).await.watch(service("")).await.unwrap().into_inner();
    let mut next = async || tokio::time::timeout(crate::fleet::PATIENCE, watching.message()).await.unwrap();
    assert_eq!(next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    master.again();
    assert_eq!(next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    assert_eq!(check("").await.unwrap(), ServingStatus::Serving);
    let row = until("its address is shown", || Some(master.until_status("lady", "Active")));
    assert!(row["address"].as_str().unwrap().ends_with(&format!(":{}", address.port())), "{row}");
    master.kill();
    assert_eq!(next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(check("").await.unwrap(), ServingStatus::NotServing);
    assert_eq!(check("liveness").await.unwrap(), ServingStatus::Serving);
}
