mod applied;
mod calls;
mod file;
mod refused;
mod running;
mod sections;

use toml::{Table, Value};

use super::Settings;

fn read(text: &str) -> Settings {
    Settings::from_toml(text).unwrap_or_else(|invalid| panic!("{invalid}"))
}

/// Every field by its path.
fn leaves(table: &Table) -> Vec<(String, Value)> {
    fn walk(prefix: &str, table: &Table, leaves: &mut Vec<(String, Value)>) {
        for (name, value) in table {
            let path = match prefix {
                "" => name.clone(),
                prefix => format!("{prefix}.{name}"),
            };
            match value {
                Value::Table(table) => walk(&path, table, leaves),
                value => leaves.push((path, value.clone())),
            }
        }
    }
    let mut all = Vec::new();
    walk("", table, &mut all);
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all
}
