//! When servers are checked.

use super::*;
use crate::engine::fixtures;

fn config(addresses: &[SocketAddr], interval: Duration) -> Config {
    let mut pool = pool(addresses[0], CheckKind::CONNECT, None);
    pool.check.interval = interval;
    pool.check.down_interval = interval;
    let server = |(index, &address): (usize, &SocketAddr)| Server {
        name: format!("n{index}").into(),
        address,
        check_address: address,
        agent_address: None,
        weight: Server::WEIGHT,
        max_connections: None,
        backup: false,
        duty: Duty::Ready,
    };
    pool.servers = addresses.iter().enumerate().map(server).collect();
    Config {
        interfaces: Vec::new(),
        hook: Hook::XdpNative,
        vips: Vips::default(),
        on_stop: OnStop::default(),
        limits: Limits::default(),
        timeouts: Timeouts::default(),
        snat: Snat::default(),
        pools: [(pool.name.clone(), pool)].into(),
        services: [].into(),
    }
}

async fn reports_within(probes: &Probes, time: Duration) -> usize {
    tokio::time::sleep(time).await;
    probes.take_reports().len()
}

/// Waits for a report that may be news.
async fn news(probes: &Probes) {
    probes.news().await;
    assert_eq!(probes.take_reports().len(), 1);
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_check_that_is_asked_for_comes_at_once_and_requests_are_merged() {
    let (address, _listener) = hung().await;
    let probes = Probes::start(&config(&[address], HOUR), &mpsc::channel(1).0).unwrap();
    news(&probes).await;
    let asked = Instant::now();
    for _ in 0..5 {
        probes.check_now(&"kv".into(), &"n0".into());
    }
    news(&probes).await;
    assert!(
        asked.elapsed() < Duration::from_secs(1),
        "{:?}",
        asked.elapsed()
    );
    assert!(reports_within(&probes, Duration::from_millis(100)).await <= 1);
}

#[tokio::test]
async fn a_server_is_probed_at_the_pace_that_it_was_given() {
    let (address, _listener) = hung().await;
    let mut config = config(&[address], HOUR);
    let pool = config.pools.values_mut().next().unwrap();
    pool.check.down_interval = Duration::from_millis(400);
    let probes = Probes::start(&config, &mpsc::channel(1).0).unwrap();
    let second = Duration::from_secs(1);
    assert_eq!(reports_within(&probes, second / 3).await, 1);
    probes.set_pace(&"kv".into(), &"n0".into(), Pace::Fast);
    let fast = reports_within(&probes, second).await;
    probes.set_pace(&"kv".into(), &"n0".into(), Pace::Down);
    let down = reports_within(&probes, second).await;
    assert!(fast > down && down >= 1, "{fast} and {down}");
}

#[tokio::test]
async fn the_first_checks_of_a_pool_are_spread_over_the_interval() {
    const SERVERS: u32 = 5;
    let interval = Duration::from_millis(1500);
    let (address, _listener) = hung().await;
    let started = Instant::now();
    let config = config(&[address; SERVERS as usize], interval);
    let probes = Probes::start(&config, &mpsc::channel(1).0).unwrap();
    for number in 0..SERVERS {
        news(&probes).await;
        let due = interval * number / SERVERS;
        let late = started.elapsed().checked_sub(due);
        assert!(
            late.is_some_and(|late| late < Duration::from_millis(250)),
            "check {number} came {late:?} after {due:?}"
        );
    }
}

#[tokio::test]
async fn only_what_may_be_news_rings() {
    let (address, listener) = hung().await;
    let interval = Duration::from_millis(100);
    let config = config(&[address], interval);
    let probes = Probes::start(&config, &mpsc::channel(1).0).unwrap();
    for _ in 0..config.pools.values().next().unwrap().check.rise {
        news(&probes).await;
    }
    let rings = tokio::time::timeout(5 * interval, probes.news()).await;
    assert!(rings.is_err(), "it says the same again");
    assert!(probes.take_reports().len() >= 3);
    probes.check_now(&"kv".into(), &"n0".into());
    probes.news().await;
    drop(listener);
    probes.news().await;
    let refused = |report: &Event| match report {
        Event::Checked { report, .. } => report.outcome == Outcome::Refused,
        _ => false,
    };
    assert!(probes.take_reports().last().is_some_and(refused));
}

#[tokio::test]
async fn a_server_that_is_retired_is_not_reported_even_where_its_check_is_under_way() {
    let silent = serve(|mut stream| async move {
        request(&mut stream).await;
        std::future::pending::<()>().await;
    });
    let silent = silent.await;
    let mut config = config(&[silent], HOUR);
    let pool = config.pools.values_mut().next().unwrap();
    pool.check = config::Check {
        timeout: Duration::from_millis(200),
        ..config::Check::with_defaults(CheckKind::get(Some("/health".into())))
    };
    let mut probes = Probes::start(&config, &mpsc::channel(1).0).unwrap();
    // Its first check is due at once, and takes all of its time.
    assert_eq!(reports_within(&probes, Duration::from_millis(50)).await, 0);
    config.pools.clear();
    probes.retire(&config).await;
    assert_eq!(reports_within(&probes, Duration::from_millis(400)).await, 0);
}

#[tokio::test]
async fn questions_that_were_answered_are_not_kept() {
    let (address, _listener) = hung().await;
    let mut config = config(&[address], HOUR);
    let pool = config.pools.values_mut().next().unwrap();
    pool.check.timeout = Duration::from_millis(1);
    pool.discover = Some(fixtures::discover());
    let (events, mut listed) = mpsc::channel(1);
    let mut probes = Probes::start(&config, &events).unwrap();
    for _ in 0..20 {
        probes.inquire(&config, &"kv".into(), &"n0".into());
        assert!(matches!(listed.recv().await, Some(Event::Listed { .. })));
    }
    let kept = probes.running.values().map(|running| running.tasks.len());
    assert!(kept.sum::<usize>() < 5);
}

#[tokio::test]
async fn probes_end_with_their_owner() {
    let (events, mut reports) = mpsc::channel(1000);
    drop(Probes::start(&config(&[nobody().await], HOUR), &events).unwrap());
    drop(events);
    while reports.recv().await.is_some() {}
}
