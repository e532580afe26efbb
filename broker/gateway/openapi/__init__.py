"""The contract as an OpenAPI 3.1 document, made from the table of operations and the types it names."""
