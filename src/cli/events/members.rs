//! The members of a cluster, of which somebody who follows it has named some.

use serde_json::Value;
use stockd_client::{Client, Error, Options};

/// Adds where the other members of the cluster serve clients, as the first node says that answers. If none does within
/// a round, those that were named are all that are known.
pub(super) async fn add_members(options: &mut Options) {
    let round = options.connect_timeout * options.addresses.len() as u32;
    let asking = Options { request_timeout: round, stay: true, ..options.clone() };
    let Ok(status) = status(asking).await else { return };
    for address in clients(&status) {
        if !options.addresses.contains(&address) {
            options.addresses.push(address);
        }
    }
}

async fn status(options: Options) -> Result<String, Error> {
    Client::connect(options).await?.cluster_status().await
}

fn clients(status: &str) -> Vec<String> {
    let status: Value = serde_json::from_str(status).unwrap_or_default();
    let members = status["members"].as_array().into_iter().flatten();
    members.filter_map(|member| Some(member["client"].as_str()?.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_where_they_serve_clients() {
        let status = r#"{"node":1,"members":[{"id":1,"client":"a:1"},{"id":2,"client":"b:2"}]}"#;
        assert_eq!(clients(status), ["a:1", "b:2"]);
        assert!(clients(r#"{"node":1}"#).is_empty());
        assert!(clients("later it may be otherwise").is_empty());
    }
}
