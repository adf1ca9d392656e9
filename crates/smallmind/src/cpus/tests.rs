//! Machines and containers as tables of their files.

use super::*;

type File = (&'static str, &'static str);

const STATUS: &str = "/proc/thread-self/status";
const GIB: u64 = 1 << 30;

fn machine(files: Vec<(String, String)>) -> impl Fn(&str) -> Option<String> {
    move |path| files.iter().find(|(name, _)| name == path).map(|(_, text)| text.clone())
}

fn files(fixed: &[File]) -> Vec<(String, String)> {
    fixed.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

/// `cores` cores of two hardware threads each, numbered as Linux does: the second threads after all the first.
fn siblings(cores: usize) -> Vec<(String, String)> {
    let path = |cpu: usize| format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    (0..2 * cores).map(|cpu| (path(cpu), format!("{},{}\n", cpu % cores, cpu % cores + cores))).collect()
}

fn chosen(files: Vec<(String, String)>, model: u64) -> (usize, Vec<usize>, String) {
    let choice = choose_from(&machine(files), usize::MAX, model);
    (choice.threads, choice.home.clone(), choice.to_string())
}

#[test]
fn two_hardware_threads_of_a_core_count_once() {
    let mut smt = files(&[
        (STATUS, "Name:\tx\nCpus_allowed_list:\t0-7\n"),
        ("/sys/devices/system/cpu/online", "0-7\n"),
    ]);
    smt.extend(siblings(4));
    assert_eq!(chosen(smt.clone(), 0), (4, vec![], "4 threads: 8 CPUs allowed, 4 physical cores".into()));
    // Affinity to both threads of one core and to one thread of another.
    smt[0].1 = "Cpus_allowed_list:\t1,5,6\n".into();
    assert_eq!(chosen(smt, 0).0, 2);
}

#[test]
fn cpus_that_are_switched_off_do_not_count() {
    let off = files(&[(STATUS, "Cpus_allowed_list:\t0-127\n"), ("/sys/devices/system/cpu/online", "0-1\n")]);
    assert_eq!(chosen(off, 0).0, 2);
}

#[test]
fn a_hybrid_laptop_uses_its_performance_cores() {
    // Four performance cores of two threads each, numbered side by side, and eight efficient ones.
    let mut laptop = files(&[
        (STATUS, "Cpus_allowed_list:\t0-15\n"),
        ("/sys/devices/cpu_core/cpus", "0-7\n"),
        ("/sys/devices/cpu_atom/cpus", "8-15\n"),
    ]);
    for cpu in 0..16 {
        let group = if cpu < 8 { format!("{}-{}", cpu & !1, cpu | 1) } else { cpu.to_string() };
        laptop.push((format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"), group));
    }
    let (threads, home, why) = chosen(laptop.clone(), 0);
    assert_eq!((threads, home), (4, (0..8).collect()));
    assert_eq!(why, "4 threads: 16 CPUs allowed, 8 on fast cores, 4 physical cores");
    // Confined to efficient cores, it makes do with them.
    laptop[0].1 = "Cpus_allowed_list:\t10-12\n".into();
    assert_eq!(chosen(laptop, 0).0, 3);
}

#[test]
fn cores_of_far_less_capacity_or_clock_are_left_out() {
    for file in ["cpu_capacity", "cpufreq/cpuinfo_max_freq"] {
        let mut phone = files(&[(STATUS, "Cpus_allowed_list:\t0-7\n")]);
        for cpu in 0..8 {
            let speed = [250, 250, 250, 250, 870, 870, 870, 1024][cpu];
            phone.push((format!("/sys/devices/system/cpu/cpu{cpu}/{file}"), format!("{speed}\n")));
        }
        let (threads, home, _) = chosen(phone, 0);
        assert_eq!((threads, home), (4, vec![4, 5, 6, 7]), "{file}");
    }
}

#[test]
fn a_model_stays_on_one_memory_node_where_it_fits() {
    let mut server = files(&[
        (STATUS, "Cpus_allowed_list:\t4-31\n"),
        ("/sys/devices/system/node/online", "0-1\n"),
        ("/sys/devices/system/node/node0/cpulist", "0-7,16-23\n"),
        ("/sys/devices/system/node/node1/cpulist", "8-15,24-31\n"),
        (
            "/sys/devices/system/node/node0/meminfo",
            "Node 0 MemTotal:       67108864 kB\nNode 0 MemFree: 1 kB\n",
        ),
        ("/sys/devices/system/node/node1/meminfo", "Node 1 MemTotal:       33554432 kB\n"),
    ]);
    server.extend(siblings(16));
    let node1: Vec<usize> = (8..16).chain(24..32).collect();
    assert_eq!(chosen(server.clone(), 10 * GIB).1, node1);
    let (threads, _, why) = chosen(server.clone(), 10 * GIB);
    assert_eq!((threads, why.contains("16 on memory node 1")), (8, true), "{why}");
    // Node 1 has 32 GiB: with what stands beside the weights, 30 do not fit; node 0 has fewer free CPUs and more memory.
    let (_, home, why) = chosen(server.clone(), 30 * GIB);
    assert_eq!((home.len(), why.contains("memory node 0")), (12, true), "{why}");
    let (threads, home, _) = chosen(server, 60 * GIB);
    assert_eq!((threads, home), (16, vec![]));
}

#[test]
fn the_tightest_quota_up_the_tree_holds_in_version_2() {
    let v2 = |own: &'static str, above: &'static str| {
        files(&[
            (STATUS, "Cpus_allowed_list:\t0-7\n"),
            ("/proc/self/cgroup", "0::/user.slice/app/job\n"),
            (
                "/proc/self/mountinfo",
                "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
            ),
            ("/sys/fs/cgroup/user.slice/app/job/cpu.max", own),
            ("/sys/fs/cgroup/user.slice/cpu.max", above),
        ])
    };
    let (threads, home, why) = chosen(v2("max 100000\n", "150000 100000\n"), 0);
    assert_eq!((threads, home.len()), (1, 0));
    assert_eq!(why, "1 thread: 8 CPUs allowed, a quota of 1.5 CPUs");
    assert_eq!(chosen(v2("300000 100000\n", "700000 100000\n"), 0).0, 3);
    assert_eq!(chosen(v2("20000 100000\n", "max 100000\n"), 0).0, 1);
    assert_eq!(chosen(v2("max 100000\n", "max 100000\n"), 0).0, 8);
}

#[test]
fn version_1_and_containers_that_see_only_their_part_are_read_too() {
    let v1 = |group: &'static str, root: &'static str, quota: &'static str| {
        let mut all = files(&[
            (STATUS, "Cpus_allowed_list:\t0-7\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", quota),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us", "250000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us", "50000\n"),
        ]);
        all.push(("/proc/self/cgroup".into(), format!("9:memory:/m\n4:cpu,cpuacct:{group}\n1:cpuset:/s\n")));
        let mount = "/sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct";
        let other = "29 23 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
        all.push(("/proc/self/mountinfo".into(), format!("{other}\n30 23 0:26 {root} {mount}\n")));
        all
    };
    assert_eq!(chosen(v1("/docker/abc", "/", "-1\n"), 0).0, 5);
    assert_eq!(chosen(v1("/docker/abc", "/docker/abc", "200000\n"), 0).0, 2);
    assert_eq!(chosen(v1("/elsewhere", "/docker/abc", "300000\n"), 0).0, 3);
    assert_eq!(chosen(v1("/", "/", "-1\n"), 0).0, 8);
}

#[test]
fn without_the_systems_files_its_own_count_decides_and_never_more_than_the_limit() {
    let choice = choose_from(&|_| None, 6, 0);
    assert_eq!((choice.threads, choice.to_string()), (6, "6 threads: 6 granted by the system".into()));
    assert_eq!(choose_from(&|_| None, 0, 0).threads, 1);
    let many = files(&[(STATUS, "Cpus_allowed_list:\t0-191\n")]);
    assert_eq!(chosen(many.clone(), 0).0, MOST_THREADS);
    // What the system grants is never exceeded.
    assert_eq!(choose_from(&machine(many), 3, 0).threads, 3);
}

#[test]
fn nonsense_in_the_files_does_no_harm() {
    assert_eq!(list(" 0-2, 7,x,3-,-1,9-8\n"), [0, 1, 2, 7].into());
    assert!(list("0-99999999999").len() < 20_000);
    let odd = files(&[
        (STATUS, "Cpus_allowed_list:\t?\n"),
        ("/proc/self/cgroup", "0\n0::\n:::\n1:cpu:/../..\n"),
        ("/proc/self/mountinfo", "-\n - cgroup2\n1 2 3 / /c rw - cgroup x rw,cpu\n"),
        ("/c/cpu.cfs_quota_us", "100000"),
        ("/c/cpu.cfs_period_us", "0"),
    ]);
    assert_eq!(choose_from(&machine(odd), 2, u64::MAX).threads, 2);
}

#[test]
fn this_machine_has_a_choice_that_it_accepts() {
    let choice = choose(0);
    assert!((1..=MOST_THREADS).contains(&choice.threads));
    choice.confine().unwrap();
}
