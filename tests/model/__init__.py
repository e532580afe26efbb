"""The broker as a state machine: rules that any order of may follow, invariants that hold after each."""
