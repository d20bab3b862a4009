//! Another package with another `vector_boot` in the place of the running one, under a client of the host.

#[test]
fn pid_1_and_services_are_replaced_three_times_and_no_call_fails() {
    let folder = tempfile::tempdir().unwrap();
    system_tests::upgrades::there_and_back(folder.path(), 3);
}
