//! The processor time that control groups grant: the tightest of all groups from ours up to the top, version 1 and 2.

/// CPUs' worth of time, where a group limits it.
pub(super) fn tightest(read: &dyn Fn(&str) -> Option<String>) -> Option<f64> {
    let (groups, mounts) = (read("/proc/self/cgroup")?, read("/proc/self/mountinfo")?);
    let quotas = groups.lines().filter_map(|line| {
        // `0::/path` in version 2, `4:cpu,cpuacct:/path` in version 1.
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let kind = match (number, controllers) {
            ("0", "") => Kind::V2,
            _ if controllers.split(',').any(|c| c == "cpu") => Kind::V1,
            _ => return None,
        };
        let (root, mount) = mounts.lines().find_map(|line| mount_of(line, kind))?;
        // A path that is not below what is mounted belongs to a container that sees only its own part.
        let below =
            path.strip_prefix(root.trim_end_matches('/')).filter(|p| p.is_empty() || p.starts_with('/'));
        let below = below.filter(|p| !p.split('/').any(|part| part == "..")).unwrap_or("");
        tightest_up(read, kind, &mount, below.trim_end_matches('/'))
    });
    quotas.reduce(f64::min)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    V1,
    V2,
}

/// What part of the hierarchy is mounted and where, of a line of `mountinfo` that mounts this kind.
fn mount_of(line: &str, kind: Kind) -> Option<(String, String)> {
    let (place, what) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (root, mount) = (place.next()?, place.next()?);
    let mut what = what.split(' ');
    let (file_system, options) = (what.next()?, what.nth(1).unwrap_or(""));
    let fits = match kind {
        Kind::V2 => file_system == "cgroup2",
        Kind::V1 => file_system == "cgroup" && options.split(',').any(|o| o == "cpu"),
    };
    fits.then(|| (root.to_owned(), mount.trim_end_matches('/').to_owned()))
}

fn tightest_up(
    read: &dyn Fn(&str) -> Option<String>,
    kind: Kind,
    mount: &str,
    mut below: &str,
) -> Option<f64> {
    let mut tightest: Option<f64> = None;
    loop {
        let file = |name: &str| read(&format!("{mount}{below}/{name}"));
        let (quota, period) = match kind {
            Kind::V2 => {
                let text = file("cpu.max").unwrap_or_default();
                let mut words = text.split_whitespace().map(str::to_owned);
                (words.next(), words.next())
            }
            Kind::V1 => (file("cpu.cfs_quota_us"), file("cpu.cfs_period_us")),
        };
        // `max` and -1 are no limit.
        let number = |text: Option<String>| text?.trim().parse::<f64>().ok().filter(|n| *n > 0.0);
        if let (Some(quota), Some(period)) = (number(quota), number(period)) {
            tightest = Some(tightest.map_or(quota / period, |t| t.min(quota / period)));
        }
        match below.rsplit_once('/') {
            Some((up, _)) => below = up,
            None => return tightest,
        }
    }
}
