//! Domains, subscribers, rooms, links and the agent itself for people.

use elph_proto::v1::{Domain, GetAgentResponse, GetSubscriberResponse, Link, LinkState, Registration, Room, Subscriber};

use super::{Cell, Grid, Tone, duration, facts, full_time, short_time, since, word};
use crate::output::Look;

/// The word for a link's state.
pub(crate) fn link_state(state: LinkState) -> String {
    word(state.as_str_name(), "LINK_STATE_")
}

/// The tone of a link's state.
pub(crate) fn link_tone(state: LinkState) -> Tone {
    match state {
        LinkState::Up => Tone::Good,
        LinkState::Down => Tone::Bad,
        _ => Tone::Warn,
    }
}

/// Domains.
pub(crate) fn domains(domains: &[Domain], look: &Look) -> Grid {
    let mut grid = Grid::new(&[("DOMAIN", 0), ("SUBSCRIBERS>", 0), ("READ", 0)]);
    for domain in domains {
        let read = if domain.subscribers_time.is_none() { "not yet".to_owned() } else { short_time(domain.subscribers_time, look) };
        grid.row(vec![domain.name.as_str().into(), domain.subscriber_count.to_string().into(), read.into()]);
    }
    grid
}

/// Subscribers.
pub(crate) fn subscribers(subscribers: &[Subscriber]) -> Grid {
    let mut grid = Grid::new(&[("ALIAS", 0), ("INTERFACE", 0), ("TYPE", 0)]);
    for subscriber in subscribers {
        grid.row(vec![subscriber.alias.as_str().into(), subscriber.interface.as_str().into(), subscriber.interface_type.as_str().into()]);
    }
    grid
}

fn yes_no(flag: Option<bool>) -> String {
    flag.map(|flag| if flag { "yes" } else { "no" }).unwrap_or_default().to_owned()
}

/// One subscriber, without the registrations.
pub(crate) fn subscriber(answer: &GetSubscriberResponse) -> Vec<String> {
    let subscriber = answer.subscriber.clone().unwrap_or_default();
    let regime = answer.regime.clone().unwrap_or_default();
    facts(&[
        ("Alias", subscriber.alias),
        ("Domain", subscriber.domain),
        ("Interface", subscriber.interface),
        ("Type", subscriber.interface_type),
        ("Regime", regime.name),
        ("Private in", yes_no(regime.private_in)),
        ("Private out", yes_no(regime.private_out)),
        ("Calls", answer.call_ids.join(" ")),
    ])
}

/// Registrations.
pub(crate) fn registrations(registrations: &[Registration]) -> Grid {
    let mut grid = Grid::new(&[("REGISTERED", 0), ("ACCESS POINT", 2), ("VIA", 1), ("EXPIRES>", 3), ("LEFT>", 0)]);
    for registration in registrations {
        grid.row(vec![
            registration.uri.as_str().into(),
            registration.access_point.as_str().into(),
            registration.via_host.as_str().into(),
            duration(registration.expires).into(),
            duration(registration.time_left).into(),
        ]);
    }
    grid
}

/// Rooms.
pub(crate) fn rooms(rooms: &[Room]) -> Grid {
    let mut grid = Grid::new(&[("ROOM", 0), ("DESCRIPTION", 0)]);
    for room in rooms {
        grid.row(vec![room.name.as_str().into(), room.description.as_str().into()]);
    }
    grid
}

/// Links.
pub(crate) fn links(links: &[Link], look: &Look) -> Grid {
    let mut grid = Grid::new(&[("LINK", 0), ("STATE", 0), ("FOR>", 0), ("NODE", 1), ("SWITCH", 3), ("SESSIONS>", 2), ("LAST ERROR", 0)]);
    for link in links {
        grid.row(vec![
            link.name.as_str().into(),
            Cell::toned(link_state(link.state()), link_tone(link.state())),
            since(link.since, look).into(),
            link.node.as_str().into(),
            link.switch_version.as_str().into(),
            link.sessions.to_string().into(),
            link.last_error.as_str().into(),
        ]);
    }
    grid
}

/// The agent.
pub(crate) fn agent(agent: &GetAgentResponse, look: &Look) -> Vec<String> {
    facts(&[
        ("Agent", agent.version.clone()),
        ("Started", format!("{} ({} ago)", full_time(agent.start_time, look), since(agent.start_time, look))),
        ("Dialect", agent.dialect.clone()),
        ("Calls from", agent.call_backend.clone()),
        ("Conferences from", agent.conference_backend.clone()),
        ("Journal", format!("{}:{}..{}", agent.epoch, agent.oldest_sequence, agent.newest_sequence)),
        ("Not in the dialect", if agent.unknown_operations.is_empty() { "-".into() } else { agent.unknown_operations.join(" ") }),
    ])
}
