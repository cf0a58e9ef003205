{{/* NAME of all resources, of which the controller knows how their names begin. */}}
{{- define "pocketkv.fullname" -}}
{{- $name := default .Release.Name .Values.fullnameOverride -}}
{{- if gt (len $name) 30 }}{{ fail (printf "the release's name %q has more than 30 characters: give fullnameOverride" $name) }}{{ end -}}
{{- $name -}}
{{- end }}

{{/* Labels by which pods are selected; they never change. (list $ "component") */}}
{{- define "pocketkv.selector" -}}
app.kubernetes.io/name: pocketkv
app.kubernetes.io/instance: {{ include "pocketkv.fullname" (index . 0) }}
{{- with index . 1 }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{/* Labels of a resource. Pods have none with versions, which would restart them. */}}
{{- define "pocketkv.labels" -}}
{{ include "pocketkv.selector" . }}
{{- with index . 0 }}
app.kubernetes.io/part-of: pocketkv
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}
{{- end }}

{{- define "pocketkv.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ printf "%s@%s" .repository .digest }}{{ else }}{{ printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}{{ end -}}
{{- end -}}
{{- end }}

{{- define "pocketkv.secretName" -}}
{{- default (include "pocketkv.fullname" .) .Values.auth.existingSecret -}}
{{- end }}

{{/* (list $ "component") */}}
{{- define "pocketkv.serviceAccount" -}}
{{- $account := index (index . 0).Values.serviceAccounts (index . 1) -}}
{{- $own := printf "%s-%s" (include "pocketkv.fullname" (index . 0)) (index . 1) -}}
{{- if $account.create }}{{ default $own $account.name }}{{ else }}{{ default "default" $account.name }}{{ end -}}
{{- end }}

{{/* Bytes of a quantity such as 2Gi. */}}
{{- define "pocketkv.bytes" -}}
{{- $number := regexFind "^[0-9]+" . -}}
{{- $units := dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- mul (int64 $number) (int64 (get $units (trimPrefix $number .))) -}}
{{- end }}

{{/* What a tier's entry says, with the files that it needs checked. (list $ entry) */}}
{{- define "pocketkv.checkTier" -}}
{{- $entry := index . 1 -}}
{{- if gt (int $entry.min) (int $entry.max) }}{{ fail (printf "tiers: %s: min %d is more than max %d" $entry.name (int $entry.min) (int $entry.max)) }}{{ end -}}
{{- if and (ne $entry.tier "dram") (not $entry.disk) }}{{ fail (printf "tiers: %s: %s servers need a disk" $entry.name $entry.tier) }}{{ end -}}
{{- if and $entry.spill (or (ne $entry.tier "dram") $entry.disk) }}{{ fail (printf "tiers: %s: spill is for dram without a disk" $entry.name) }}{{ end -}}
{{- if and (eq $entry.tier "dram") $entry.disk }}{{ if eq $entry.disk.kind "emptyDir" }}{{ fail (printf "tiers: %s: dram spills to an ephemeral or persistent disk only: a pod that fills an emptyDir is evicted" $entry.name) }}{{ end }}{{ end -}}
{{- $overhead := add (include "pocketkv.bytes" (index . 0).Values.storage.memoryOverhead | int64) (div (include "pocketkv.bytes" $entry.memory | int64) 10) -}}
{{- if lt (sub (include "pocketkv.bytes" $entry.memory | int64) $overhead) 67108864 }}{{ fail (printf "tiers: %s: memory %s leaves less than 64Mi for values" $entry.name $entry.memory) }}{{ end -}}
{{- end }}

{{/* Bytes for --memory: the container's memory, less what the process itself needs. Of a file tier
     half of it, since its cache is the page cache, which counts as the container's too. (list $ entry) */}}
{{- define "pocketkv.valueMemory" -}}
{{- $memory := include "pocketkv.bytes" (index . 1).memory | int64 -}}
{{- $overhead := add (include "pocketkv.bytes" (index . 0).Values.storage.memoryOverhead | int64) (div $memory 10) -}}
{{- $values := sub $memory $overhead -}}
{{- if eq (index . 1).tier "dram" }}{{ $values }}{{ else }}{{ div $values 2 }}{{ end -}}
{{- end }}

{{/* POCKETKV_AUTOSCALE: dram=2..8,nvme=0..4; entries of one tier are added up. */}}
{{- define "pocketkv.autoscale" -}}
{{- $least := dict -}}{{- $most := dict -}}
{{- range .Values.tiers -}}
{{- $_ := set $least .tier (add (int (get $least .tier | default 0)) (int .min)) -}}
{{- $_ := set $most .tier (add (int (get $most .tier | default 0)) (int .max)) -}}
{{- end -}}
{{- $parts := list -}}
{{- range $tier := keys $least | sortAlpha -}}
{{- $parts = append $parts (printf "%s=%d..%d" $tier (int (get $least $tier)) (int (get $most $tier))) -}}
{{- end -}}
{{- join "," $parts -}}
{{- end }}

{{- define "pocketkv.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "pocketkv.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* What pods of all components begin with. (list $ "component" values) */}}
{{- define "pocketkv.podStart" -}}
{{- $root := index . 0 -}}{{- $component := index . 1 -}}{{- $own := index . 2 -}}
# A Service named pocketkv would set POCKETKV_PORT, which is an option.
enableServiceLinks: false
serviceAccountName: {{ include "pocketkv.serviceAccount" (list $root $component) }}
automountServiceAccountToken: {{ eq $component "controller" }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "pocketkv.podSecurity" $root | nindent 2 }}
{{- with $own.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $own.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* (list $ labels), labels being a YAML text */}}
{{- define "pocketkv.spread" -}}
{{- if (index . 0).Values.topologySpread.enabled -}}
topologySpreadConstraints:
  {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- index $ 1 | nindent 8 }}
  {{- end }}
{{- end -}}
{{- end }}

{{/* (list $ annotations) */}}
{{- define "pocketkv.podAnnotations" -}}
{{- $all := deepCopy (index . 1) -}}
{{- with (index . 0).Values.metrics -}}
{{- if .scrapeAnnotations -}}
{{- $_ := set $all "prometheus.io/scrape" "true" -}}
{{- $_ := set $all "prometheus.io/port" (toString .port) -}}
{{- $_ := set $all "prometheus.io/path" "/metrics" -}}
{{- end -}}
{{- end -}}
{{- if $all }}{{ toYaml $all }}{{ end -}}
{{- end }}

{{/* Environment of all processes. (list $ port) */}}
{{- define "pocketkv.env" -}}
{{- with index . 0 -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- name: POCKETKV_HOST
  value: {{ .Values.listenHost | quote }}
- name: POCKETKV_PORT
  value: {{ index $ 1 | quote }}
- name: POCKETKV_METRICS_PORT
  value: {{ .Values.metrics.port | quote }}
- name: POCKETKV_LOG_LEVEL
  value: {{ .Values.log.level }}
- name: POCKETKV_LOG_FORMAT
  value: {{ .Values.log.format }}
- name: POCKETKV_SECRET_FILE
  value: /etc/pocketkv/secret
{{- end }}
{{- end }}

{{/* The secret's files: only those that a component needs. (list $ withAdminPassword) */}}
{{- define "pocketkv.secretVolume" -}}
- name: secret
  secret:
    secretName: {{ include "pocketkv.secretName" (index . 0) }}
    defaultMode: 0440
    items:
      - {key: secret, path: secret}
      {{- if index . 1 }}
      - {key: admin-password, path: admin-password}
      {{- end }}
{{- end }}

{{/* Alive is who answers; ready is who can do its work: has joined, has a map. */}}
{{- define "pocketkv.probes" -}}
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end }}
