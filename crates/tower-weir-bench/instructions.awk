# Turns what the benchmark `instructions` prints into docs/instructions.md.
BEGIN {
    print "# Instructions of a call\n"
    print "Counted by callgrind over a thousand calls in a row, without those in the"
    print "kernel. The load of the machine does not change them, the compiler and the"
    print "versions of dependencies do. To renew this page:\n"
    print "```sh"
    print "cargo install gungraun-runner@0.20.0 # once; valgrind must be installed too"
    print "cargo bench -p tower-weir-bench --bench instructions |"
    print "    awk -f crates/tower-weir-bench/instructions.awk > docs/instructions.md"
    print "```\n"
    print "| subject | instructions a call |"
    print "|---|---:|"
}

/^instructions::calls::/ {
    sub(/^[^"]*"/, "")
    sub(/".*/, "")
    subject = $0
}

/^ *Instructions:/ && subject != "" {
    sub(/\|.*/, "", $2)
    gsub(/,/, "", $2)
    printf "| %s | %.0f |\n", subject, $2 / 1000
    subject = ""
}
