"""Where the values of secrets are: the environment, a file, a keyring, Vault. On the host alone."""
