# A hive on each client with GPUs. Before it, on each of these clients:
#   - the program in /usr/local/bin, the user rbee-hive and its folders, as docs/operating.md has it for systemd;
#   - in Nomad's own configuration: plugin "raw_exec" { config { enabled = true } }, client { meta { gpu = "true" } } and
#     client { max_kill_timeout = "120s" }: its default, 30s, would cut the cascade.
# And once, the token: nomad var put nomad/jobs/rbee-hive token=...
# docs/fleet.md says what a queen sees of it, and how to upgrade.
job "rbee-hive" {
  type        = "system"
  datacenters = ["*"]

  constraint {
    attribute = "${meta.gpu}"
    value     = "true"
  }

  # Workers end with their task: one client after the other, each drained before.
  update {
    max_parallel = 1
    stagger      = "5m"
  }

  group "hive" {
    network {
      port "api" {
        static = 8600
      }
    }

    service {
      name     = "rbee-hive"
      port     = "api"
      provider = "nomad"

      check {
        name     = "alive"
        type     = "http"
        path     = "/health"
        interval = "10s"
        timeout  = "5s"
      }

      check {
        name      = "ready"
        type      = "http"
        path      = "/ready"
        interval  = "10s"
        timeout   = "5s"
        on_update = "ignore"
      }
    }

    restart {
      attempts = 10
      interval = "10m"
      delay    = "5s"
      mode     = "delay"
    }

    task "hive" {
      # On the host itself: GPUs, their libraries and NVIDIA's process ids are as they are there, without a plugin.
      driver = "raw_exec"
      user   = "rbee-hive"

      config {
        command = "/usr/local/bin/rbee-hive"
        args    = ["serve"]
      }

      env {
        RBEE_HIVE_HIVE_ID       = "${node.unique.name}"
        RBEE_HIVE_BIND          = "0.0.0.0:8600"
        RBEE_HIVE_ADVERTISE_URL = "http://${attr.unique.network.ip-address}:8600"
        RBEE_HIVE_WORKER_HOST   = "${attr.unique.network.ip-address}"
        RBEE_HIVE_TOKEN_FILE    = "${NOMAD_SECRETS_DIR}/token"
        RBEE_HIVE_QUEEN_URL     = "http://queen.example:8500"
        RBEE_HIVE_DATA_DIR      = "/var/lib/rbee-hive"
        RBEE_HIVE_MODEL_DIR     = "/var/cache/rbee-hive/models"
      }

      # Another token is read at SIGHUP: the hive and its workers go on.
      template {
        data          = "{{ with nomadVar \"nomad/jobs/rbee-hive\" }}{{ .token }}{{ end }}"
        destination   = "${NOMAD_SECRETS_DIR}/token"
        perms         = "0444"
        change_mode   = "signal"
        change_signal = "SIGHUP"
      }

      # More than the cascade takes: --shutdown-timeout (30 s), and what follows it.
      kill_signal  = "SIGTERM"
      kill_timeout = "90s"

      # Of the hive and its workers together; raw_exec does not hold it to them.
      resources {
        cpu    = 1000
        memory = 4096
      }
    }
  }
}
