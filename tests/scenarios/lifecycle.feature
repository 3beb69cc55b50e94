Feature: The life of a worker
  What a queen sees of a worker from its spawn to its end, and what the hive does meanwhile. Each scenario
  is played against the pure fleet in made-up time; those tagged @daemon also against the real daemon with
  real processes.

  @daemon
  Scenario: A native worker becomes ready by its callback
    Given a hive
    When a native worker is spawned
    Then it is spawning
    When it is launched and says ready
    Then it is ready
    And its restart count is 0

  @daemon
  Scenario: A probed worker becomes ready when its probe answers
    Given a hive
    When a probed worker is spawned
    Then it is spawning
    When it is launched and its probe answers
    Then it is ready

  @daemon
  Scenario: Busy means that no slot is free
    Given a hive
    And a ready native worker
    When all its slots are taken
    Then it is busy
    When a slot is free again
    Then it is ready

  @daemon
  Scenario: A probed worker is busy when its slots say so
    Given a hive
    And a ready probed worker
    When all its slots are taken
    Then it is busy
    When a slot is free again
    Then it is ready

  @daemon
  Scenario: A crashed worker is started again
    Given a hive
    And a ready native worker
    When its process is killed by SIGKILL
    Then it is spawning
    And its phase is backoff
    And its exit signal is SIGKILL
    When its backoff is over
    And it is launched and says ready
    Then it is ready
    And its restart count is 1

  @daemon
  Scenario: A worker that crashes too often is given up
    Given a hive with a restart limit of 0
    And a ready native worker
    When its process is killed by SIGKILL
    Then it is gone
    And its exit reason is signaled

  Scenario: Restarts are forgotten after five minutes of health
    Given a hive
    And a ready native worker
    When its process is killed by SIGKILL
    And its backoff is over
    And it is launched and says ready
    And 299 seconds of heartbeats pass
    Then its restart count is 1
    When 2 seconds of heartbeats pass
    Then its restart count is 0

  @daemon
  Scenario: A native worker is asked to leave, and leaves
    Given a hive
    And a ready native worker
    When it is stopped
    Then it is gone
    And its exit reason is stopped
    And its exit code is 0

  Scenario: A native worker that ignores the question gets SIGTERM, then SIGKILL
    Given a hive with a grace of 30 seconds
    And a ready native worker
    When it is stopped
    Then it is asked to exit
    And it is stopping
    When 10 seconds pass
    Then it gets SIGTERM
    When 19 seconds pass
    Then it gets nothing
    When 1 seconds pass
    Then it gets SIGKILL

  Scenario: A probed worker gets SIGTERM at once
    Given a hive with a grace of 30 seconds
    And a ready probed worker
    When it is stopped
    Then it gets SIGTERM

  @daemon
  Scenario: A stop by force is SIGKILL at once
    Given a hive
    And a ready native worker
    When it is stopped by force
    Then it is gone
    And its exit signal is SIGKILL
    And its exit reason is stopped

  Scenario: A worker that crashes while it stops is not restarted
    Given a hive
    And a ready native worker
    When it is stopped
    And its process is killed by SIGSEGV
    Then it is gone
    And its exit reason is stopped
    When 400 seconds pass
    Then it is gone

  Scenario: A worker that shows no progress is given up on
    Given a hive with a ready timeout of 60 seconds
    When a probed worker is spawned
    And it is launched
    And 59 seconds pass
    Then it is spawning
    When 1 seconds pass
    Then it gets SIGKILL
    When its process is gone
    Then its exit reason is ready_timeout
    And its phase is backoff

  Scenario: Progress puts the deadline off, but not for ever
    Given a hive with a ready timeout of 60 seconds
    When a probed worker is spawned
    And it is launched
    And 590 seconds of progress pass
    Then it is spawning
    When 20 seconds of progress pass
    Then it gets SIGKILL

  Scenario: A silent worker is stale, and one that is deaf too is killed
    Given a hive with a heartbeat timeout of 90 seconds
    And a ready native worker
    When 89 seconds pass
    Then its health is healthy
    When 1 seconds pass
    Then its health is stale
    When its probe is not answered 3 times
    Then it gets SIGKILL
    When its process is gone
    Then its exit reason is deaf
    And its phase is backoff

  Scenario: A silent worker that still answers lives on
    Given a hive with a heartbeat timeout of 90 seconds
    And a ready native worker
    When 90 seconds pass
    And its probe answers
    Then its health is stale
    When it sends a heartbeat
    Then its health is healthy

  Scenario: The hive slept, and takes nobody's silence for illness
    Given a hive with a heartbeat timeout of 90 seconds
    And a ready native worker
    When the hive sleeps for 300 seconds
    Then its health is healthy

  Scenario: The hive slept while a worker loaded, and its time begins anew
    Given a hive with a ready timeout of 60 seconds
    When a probed worker is spawned
    And it is launched
    And 50 seconds pass
    And the hive sleeps for 3600 seconds
    And 9 seconds pass
    Then it is spawning
    When 1 seconds pass
    Then it gets SIGKILL

  Scenario: The hive slept, and that was no idleness
    Given a hive with an idle timeout of 60 seconds
    And a ready native worker
    When the hive sleeps for 3600 seconds
    And 59 seconds pass
    Then it is ready
    When 1 seconds pass
    Then it is stopping

  Scenario: The hive slept, and what was not answered meanwhile is no deafness
    Given a hive with a heartbeat timeout of 90 seconds
    And a ready native worker
    When 90 seconds pass
    And its probe is not answered 2 times
    And the hive sleeps for 3600 seconds
    And its probe is not answered 2 times
    Then it gets nothing
    When its probe is not answered 1 times
    Then it gets SIGKILL

  Scenario: A worker without work is stopped after the idle timeout
    Given a hive with an idle timeout of 60 seconds
    And a ready native worker
    When 50 seconds pass
    And all its slots are taken
    And a slot is free again
    And 59 seconds pass
    Then it is ready
    When 1 seconds pass
    Then it is stopping
    When its process is gone
    Then its exit reason is idle

  Scenario: A callback of an older run changes nothing
    Given a hive
    And a ready native worker
    When its process is killed by SIGKILL
    And its backoff is over
    And it is launched
    And its older run says ready
    Then it is spawning
    And its phase is loading

  Scenario: A worker that lost its port gets another one, and that is no crash
    Given a hive
    When a probed worker is spawned
    And it is launched
    And somebody else answers on its port
    Then it gets SIGKILL
    When its process is gone
    Then it is launched again on another port
    And its restart count is 0

  Scenario: A worker that ends because its port is taken gets another one, however few restarts it may have
    Given a hive with a restart limit of 0
    When a probed worker is spawned
    And it is launched
    And it ends because its port is taken
    Then it is launched again on another port
    And its restart count is 0

  Scenario: A worker that serves and ends has crashed, whoever listens on its port by then
    Given a hive with a restart limit of 0
    And a ready probed worker
    When it ends because its port is taken
    Then it is gone
    And its exit reason is exited

  @daemon
  Scenario: The cascade stops all workers and refuses new ones
    Given a hive
    And a ready native worker
    When the hive is told to stop
    Then it is gone
    And its exit reason is cascade
    And the hive ends

  Scenario: A worker that does not say how busy it is, is not idle
    Given a hive with an idle timeout of 60 seconds
    And a ready probed worker
    When 50 seconds of answers without a count pass
    And 59 seconds of answers without a count pass
    Then it is ready

  Scenario: A worker that never had a process ends with a reason
    Given a hive
    When a native worker is spawned
    And it is stopped
    And its launch fails
    Then it is gone
    And its exit reason is stopped

  Scenario: A worker whose model is missing waits for it, and goes on by itself
    Given a hive with a ready timeout of 5 seconds
    When a worker is spawned whose model is missing
    Then it is spawning
    And its phase is provisioning
    When 3600 seconds pass
    Then its phase is provisioning
    When another download ends
    Then its phase is provisioning
    When its model is there
    Then its phase is launching
    When it is launched and says ready
    Then it is ready

  Scenario: A download that fails ends the worker with its reason
    Given a hive
    When a worker is spawned whose model is missing
    And its download fails
    Then it is gone
    And its exit reason is download_failed
    And its exit message is the hub is away

  Scenario: A worker that is stopped does not wait for its model any more
    Given a hive
    When a worker is spawned whose model is missing
    And it is stopped
    Then its download is forsaken
    And it is gone
    And its exit reason is stopped
    When its model is there
    Then it is gone

  Scenario: The cascade ends those who wait for their model
    Given a hive
    When a worker is spawned whose model is missing
    And the hive is told to stop
    Then its download is forsaken
    And it is gone
    And the hive ends

  @daemon
  Scenario: A drained hive takes no new worker and keeps those it has, also after a crash
    Given a hive
    And a ready native worker
    When the hive is drained
    Then a spawn is refused
    When its process is killed by SIGKILL
    Then it is spawning
    When its backoff is over
    And it is launched and says ready
    Then it is ready
    When the hive is drained no more
    And a native worker is spawned
    Then it is spawning

  @daemon
  Scenario: A drained hive that stops who is idle lets a request end first
    Given a hive
    And a ready native worker
    When all its slots are taken
    Then it is busy
    When the hive is drained and stops who is idle
    Then it is busy
    When a slot is free again
    And 1 seconds pass
    Then it is gone
    And its exit reason is drain
    And a spawn is refused

  Scenario: A drained hive that stops who is idle asks a worker before it takes it for idle
    Given a hive
    And a ready probed worker
    When the hive is drained and stops who is idle
    And 20 seconds of answers without a count pass
    Then it is ready

  Scenario: A drained hive that stops who is idle starts nobody again
    Given a hive
    And a ready native worker
    When all its slots are taken
    And the hive is drained and stops who is idle
    And its process is killed by SIGKILL
    Then it is gone
    And its exit reason is signaled
    And its restart count is 0

  Scenario: A drained hive that stops who is idle stops who is on its way
    Given a hive
    When a native worker is spawned
    And the hive is drained and stops who is idle
    And its launch fails
    Then it is gone
    And its exit reason is drain

  Scenario: A worker that has a request left in one of its slots is not idle
    Given a hive with an idle timeout of 60 seconds
    And a ready native worker
    When one of its two slots is taken
    And 80 seconds pass
    Then it is ready
