//! Reads `discover` of `[pool.NAME]`: where the cluster's own list of members
//! is, and how to read servers out of it.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use toml::Spanned;
use toml::de::DeValue;

use super::expect::{json_pointer, text_at};
use super::raw::Fields;
use super::{Check, Config, Pool, PoolName, Server, ServerName, value};

/// The list is asked for no more often than a member can join.
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_hours(1);

/// A longer list is no list of a cluster's members.
pub const MEMBERS_MAX: usize = 64;

/// How a pool follows the member list that its leader has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discover {
    /// The page, at the leader's check address.
    pub path: String,
    /// From one question to the next. Default 1 s.
    pub interval: Duration,
    /// Where the array of members is in the answer. Default `/members`.
    pub list: String,
    /// A member's name.
    pub name: Template,
    /// Where its clients' connections go.
    pub address: Template,
    /// Where its probes go. `None`: as the pool's check says.
    pub check_address: Option<Template>,
}

/// A text with JSON pointers in braces, as `{/host}:{/port}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Pointer(String),
}

impl Template {
    /// # Errors
    /// Braces that do not match, or no JSON pointer between them.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('{') {
            let Some((inner, after)) = behind.split_once('}') else {
                return Err(format!("\"{text}\" has a {{ without a }}"));
            };
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(Piece::Pointer(json_pointer(inner)?));
            rest = after;
        }
        if rest.contains('}') {
            return Err(format!("\"{text}\" has a }} without a {{"));
        }
        pieces.push(Piece::Text(rest.to_owned()));
        if !pieces
            .iter()
            .any(|piece| matches!(piece, Piece::Pointer(_)))
        {
            return Err(format!(
                "\"{text}\" is the same for every member; write where its own is, as \"{{/id}}\""
            ));
        }
        Ok(Self(pieces))
    }

    /// The text for one member.
    ///
    /// # Errors
    /// The pointer to which the member has nothing.
    fn fill(&self, member: &Json) -> Result<String, String> {
        let pieces = self.0.iter().map(|piece| match piece {
            Piece::Text(text) => Ok(text.clone()),
            Piece::Pointer(pointer) => {
                text_at(member, pointer).ok_or_else(|| format!("a member has no {pointer}"))
            }
        });
        pieces.collect()
    }
}

impl fmt::Display for Template {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| match piece {
            Piece::Text(text) => write!(out, "{text}"),
            Piece::Pointer(pointer) => write!(out, "{{{pointer}}}"),
        })
    }
}

impl Discover {
    /// Unless the file says otherwise.
    pub(crate) const INTERVAL: Duration = Duration::from_secs(1);
    pub(crate) const LIST: &'static str = "/members";

    /// The members that an answer of `teller` lists. The names and addresses of
    /// all of them are different, and he is one of them.
    ///
    /// # Errors
    /// Why the answer is no member list. Nothing of it is to be believed then.
    pub fn members(
        &self,
        check: &Check,
        teller: SocketAddr,
        answer: &Json,
    ) -> Result<Vec<Member>, String> {
        let Some(list) = answer.pointer(&self.list).and_then(Json::as_array) else {
            return Err(format!("the answer has no array at {}", self.list));
        };
        if list.len() > MEMBERS_MAX {
            let count = list.len();
            return Err(format!("{count} members: more than {MEMBERS_MAX}"));
        }
        let mut members: Vec<Member> = Vec::new();
        for entry in list {
            let member = self.member(check, entry)?;
            let twin = |one: &Member| one.name == member.name || one.address == member.address;
            if let Some(twin) = members.iter().find(|one| twin(one)) {
                return Err(format!(
                    "{} at {} and {} at {} cannot both be members",
                    twin.name, twin.address, member.name, member.address
                ));
            }
            members.push(member);
        }
        // Whoever lists others and not himself has left, or lists something else.
        if !members.iter().any(|member| member.address == teller) {
            return Err(format!("{teller} told it, and is not in it"));
        }
        Ok(members)
    }

    fn member(&self, check: &Check, entry: &Json) -> Result<Member, String> {
        let name = self.name.fill(entry)?;
        let name = ServerName::from(value::name(&name)?);
        let address = value::server_address(&self.address.fill(entry)?)?;
        let check_address = match &self.check_address {
            Some(template) => value::server_address(&template.fill(entry)?)?,
            None => SocketAddr::new(address.ip(), check.port.unwrap_or(address.port())),
        };
        Ok(Member {
            name,
            address,
            check_address,
        })
    }
}

/// A member of the cluster, as its list has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// What it is called.
    pub name: ServerName,
    /// Where its clients' connections go.
    pub address: SocketAddr,
    /// Where its probes go.
    pub check_address: SocketAddr,
}

impl Member {
    /// What it is known by: where its connections and its probes go.
    #[must_use]
    pub fn place(&self) -> (SocketAddr, SocketAddr) {
        (self.address, self.check_address)
    }
}

impl Config {
    /// Whether the pool may have these members, for all that services ask of
    /// their servers.
    ///
    /// # Errors
    /// The first that is in the way, and why.
    pub fn admits(&self, pool: &PoolName, members: &[Member]) -> Result<(), String> {
        for member in members {
            let address = member.address;
            let mut services = self.services.values();
            if let Some(service) = services.find(|service| service.listen.ip() == address.ip()) {
                let vip = address.ip();
                return Err(format!(
                    "{address}: {vip} is the VIP of service \"{}\"",
                    service.name
                ));
            }
            let mut services = self.services.values();
            let misfit = services.find(|service| {
                let port = address.port() == service.listen.port();
                let family = address.is_ipv4() == service.listen.is_ipv4();
                service.pool == *pool && !(family && (port || service.mode.translates_ports()))
            });
            if let Some(service) = misfit {
                let (name, listen) = (&service.name, service.listen);
                return Err(format!(
                    "{address}: service \"{name}\" at {listen} cannot reach it"
                ));
            }
        }
        Ok(())
    }
}

impl Pool {
    /// The servers of the pool where the cluster has these members. Those that
    /// the file has, by address, are as it says.
    #[must_use]
    pub fn followed(&self, members: &[Member]) -> Vec<Server> {
        let server = |member: &Member| {
            let mut known = self.servers.iter();
            if let Some(known) = known.find(|server| server.address == member.address) {
                return known.clone();
            }
            let (name, agent_port) = (member.name.clone(), self.check.agent.port);
            Server {
                check_address: member.check_address,
                ..Server::at(name, member.address, None, agent_port)
            }
        };
        members.iter().map(server).collect()
    }
}

pub(super) fn read(mut fields: Fields<'_>) -> Option<Discover> {
    let path = fields.require("path", "path = \"/members\"", value::path);
    let interval = fields.read("interval", |value| value::duration(value, INTERVALS));
    let list = fields.read("list", |value| value::text(value).and_then(json_pointer));
    let name = fields.require("name", "name = \"n{/id}\"", template);
    let address = fields.require("address", "address = \"{/api}\"", template);
    let check_address = fields.read("check_address", template);
    fields.finish();
    Some(Discover {
        path: path?.into_inner(),
        interval: interval.map_or(Discover::INTERVAL, Spanned::into_inner),
        list: list.map_or(Discover::LIST.to_owned(), Spanned::into_inner),
        name: name?.into_inner(),
        address: address?.into_inner(),
        check_address: check_address.map(Spanned::into_inner),
    })
}

fn template(value: &DeValue<'_>) -> Result<Template, String> {
    Template::parse(value::text(value)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::engine::fixtures;

    fn template(text: &str) -> Template {
        Template::parse(text).unwrap()
    }

    fn raft() -> Discover {
        fixtures::discover()
    }

    fn member(id: u8) -> Json {
        let ip = fixtures::server(id).ip();
        json!({ "id": id, "api": format!("{ip}:8081"), "health": format!("{ip}:10002") })
    }

    fn listed(list: &[Json]) -> Result<Vec<Member>, String> {
        let answer = json!({ "members": list });
        raft().members(&fixtures::pool().check, fixtures::server(1), &answer)
    }

    #[test]
    fn servers_of_the_file_stay_as_they_are_and_others_are_as_the_list_says() {
        let mut pool = fixtures::pool();
        pool.servers[0].weight = 3;
        let servers = pool.followed(&listed(&[member(1), member(4)]).unwrap());
        assert_eq!(servers[0], pool.servers[0]);
        assert_eq!(servers[1].name, "n4".into());
        assert_eq!(servers[1].address, fixtures::server(4));
        assert_eq!(servers[1].check_address.port(), 10_002);
        assert_eq!(servers.len(), 2);
    }

    /// Patroni's `/cluster`.
    #[test]
    fn names_and_addresses_may_be_put_together() {
        let discover = Discover {
            name: template("{/name}"),
            address: template("{/host}:{/port}"),
            check_address: None,
            ..raft()
        };
        let answer = json!({ "members": [
            { "name": "pg1", "host": "10.0.0.11", "port": 8081 },
            { "name": "pg4", "host": "10.0.0.14", "port": 5432 },
        ]});
        let check = fixtures::pool().check;
        let members = discover.members(&check, fixtures::server(1), &answer);
        let member = &members.unwrap()[1];
        assert_eq!(member.name, "pg4".into());
        assert_eq!(member.check_address, "10.0.0.14:10001".parse().unwrap());
    }

    #[test]
    fn an_answer_that_is_wrong_anywhere_is_wrong_altogether() {
        let with = |key: &str, value: Json| {
            let mut wrong = member(4);
            wrong[key] = value;
            listed(&[member(1), wrong]).unwrap_err()
        };
        let refused = [
            (listed(&[]).unwrap_err(), "told it, and is not in it"),
            (
                listed(&[member(2)]).unwrap_err(),
                "told it, and is not in it",
            ),
            (
                listed(&[member(1), member(1)]).unwrap_err(),
                "cannot both be",
            ),
            (with("id", json!("a b")), "is no name"),
            (with("id", json!(null)), "a member has no /id"),
            (with("api", json!("localhost")), "localhost"),
            (with("api", json!("127.0.0.1:80")), "127.0.0.1"),
            (with("health", json!("10.0.0.1")), "10.0.0.1"),
        ];
        for (reason, expected) in refused {
            assert!(reason.contains(expected), "{reason}");
        }
        let check = fixtures::pool().check;
        let no_list = raft().members(&check, fixtures::server(1), &json!({}));
        assert_eq!(no_list.unwrap_err(), "the answer has no array at /members");
        let many: Vec<Json> = (1..=65).map(member).collect();
        assert_eq!(listed(&many).unwrap_err(), "65 members: more than 64");
    }

    #[test]
    fn a_template_names_at_least_one_place() {
        for (text, reason) in [
            ("n1", "the same for every member"),
            ("n{/id", "a { without a }"),
            ("n/id}", "a } without a {"),
            ("n{id}", "id"),
        ] {
            let error = Template::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert_eq!(template("{/host}:{/port}").to_string(), "{/host}:{/port}");
    }
}
